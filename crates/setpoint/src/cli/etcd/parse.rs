//! Arguments as Go's flag package takes them: one dash or two, `--flag=value` or `--flag value`, a flag that is true
//! or false alone or with `=`; the last of several counts; the first word without a dash ends it.

use std::collections::BTreeMap;

use super::flags::{self, Flag, Kind};

/// What the arguments say.
#[derive(Debug, Default)]
pub(super) struct Parsed {
    /// Flags in the order of their names, each with its last value.
    pub(super) values: BTreeMap<&'static str, Word>,
    /// `-h` or `--help` was among them.
    pub(super) help: bool,
    /// The first word that is no flag.
    pub(super) stray: Option<String>,
}

/// A value and the name it was given to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) value: String,
    /// As written, which is not the flag's name when that was an old one.
    pub(super) name: String,
}

/// Reads arguments.
///
/// # Errors
/// Go's text for the first that is wrong.
pub(super) fn parse(args: &[String]) -> Result<Parsed, String> {
    let mut parsed = Parsed::default();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let Some(said) = arg.strip_prefix('-').filter(|rest| !rest.is_empty()) else {
            parsed.stray = Some(arg.clone());
            break;
        };
        let said = said.strip_prefix('-').unwrap_or(said);
        if said.is_empty() {
            parsed.stray = args.next().cloned();
            break;
        }
        if said.starts_with(['-', '=']) {
            return Err(format!("bad flag syntax: {arg}"));
        }
        let (name, value) = match said.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (said, None),
        };
        let Some(flag) = flags::find(name) else {
            if matches!(name, "help" | "h") {
                parsed.help = true;
                break;
            }
            return Err(format!("flag provided but not defined: -{name}"));
        };
        let value = match value {
            Some(value) => value,
            None if flag.kind.stands_alone() => "true".to_owned(),
            None => args
                .next()
                .cloned()
                .ok_or_else(|| format!("flag needs an argument: -{name}"))?,
        };
        check(flag, name, &value)?;
        let name = name.to_owned();
        parsed.values.insert(flag.name, Word { value, name });
    }
    Ok(parsed)
}

fn check(flag: &Flag, name: &str, value: &str) -> Result<(), String> {
    flag.kind.check(value).map_err(|problem| match flag.kind {
        Kind::Bool => format!("invalid boolean value {value:?} for -{name}: {problem}"),
        _ => format!("invalid value {value:?} for flag -{name}: {problem}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(args: &[&str]) -> Result<Parsed, String> {
        parse(&args.iter().map(|arg| (*arg).to_owned()).collect::<Vec<_>>())
    }

    fn value(args: &[&str], name: &str) -> Option<String> {
        parsed(args)
            .unwrap()
            .values
            .get(name)
            .map(|word| word.value.clone())
    }

    #[test]
    fn all_forms_say_the_same() {
        for args in [
            &["--name", "m"][..],
            &["-name", "m"],
            &["--name=m"],
            &["-name=m"],
            &["--name=x", "-name=m"],
        ] {
            assert_eq!(value(args, "name").as_deref(), Some("m"), "{args:?}");
        }
        assert_eq!(value(&["--name="], "name").as_deref(), Some(""));
        assert_eq!(
            value(&["--name", "--data-dir"], "name").as_deref(),
            Some("--data-dir")
        );
    }

    #[test]
    fn a_switch_takes_no_word_after_it() {
        assert_eq!(value(&["--pre-vote"], "pre-vote").as_deref(), Some("true"));
        assert_eq!(value(&["--pre-vote=F"], "pre-vote").as_deref(), Some("F"));
        let parsed = parsed(&["--pre-vote", "false"]).unwrap();
        assert_eq!(parsed.stray.as_deref(), Some("false"));
    }

    #[test]
    fn what_is_wrong_is_said_in_gos_words() {
        for (args, error) in [
            (&["--nope"][..], "flag provided but not defined: -nope"),
            (&["---name"], "bad flag syntax: ---name"),
            (&["--=x"], "bad flag syntax: --=x"),
            (&["--name"], "flag needs an argument: -name"),
            (
                &["--max-txn-ops", "x"],
                "invalid value \"x\" for flag -max-txn-ops: parse error",
            ),
            (
                &["--pre-vote=maybe"],
                "invalid boolean value \"maybe\" for -pre-vote: parse error",
            ),
            (
                &["--feature-gates=Nope=true"],
                "invalid value \"Nope=true\" for flag -feature-gates: unrecognized feature gate: Nope",
            ),
            (
                &["--initial-cluster-state=old"],
                "invalid value \"old\" for flag -initial-cluster-state: invalid value, must be one of new|existing",
            ),
        ] {
            assert_eq!(parsed(args).unwrap_err(), error);
        }
    }

    #[test]
    fn help_ends_the_reading_and_a_stray_word_too() {
        assert!(parsed(&["--name", "m", "-h", "--nope"]).unwrap().help);
        assert_eq!(parsed(&["server"]).unwrap().stray.as_deref(), Some("server"));
        assert_eq!(parsed(&["--", "x"]).unwrap().stray.as_deref(), Some("x"));
        assert_eq!(parsed(&["-"]).unwrap().stray.as_deref(), Some("-"));
    }

    #[test]
    fn old_experimental_names_still_work() {
        let args = ["--experimental-watch-progress-notify-interval=5s"];
        assert_eq!(
            value(&args, "watch-progress-notify-interval").as_deref(),
            Some("5s")
        );
        assert!(parsed(&["--experimental-initial-corrupt-check=true"]).is_ok());
        assert!(parsed(&["--experimental-name=x"]).is_err());
    }
}
