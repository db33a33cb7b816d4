//! The table of flags in `docs/ops/drop-in.md` is the list in code: this test holds them together.
//! `SETPOINT_UPDATE=1 cargo test -p setpoint --lib cli::etcd::table` writes it anew.

use std::fmt::Write as _;

use super::flags::{Effect, FLAGS, Kind, variable};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/ops/drop-in.md");
const BEGIN: &str = "<!-- flags: written by a test from the list in code -->\n";
const END: &str = "<!-- end of flags -->\n";

fn table() -> String {
    let mut out = String::from("\n| flag | default | here |\n|---|---|---|\n");
    let mut section = "";
    for flag in FLAGS.iter().filter(|flag| flag.kind != Kind::Ignored) {
        if flag.section != section {
            section = flag.section;
            writeln!(out, "| **{section}** | | |").unwrap();
        }
        let default = match flag.default {
            "" => String::new(),
            text => format!("`{text}`"),
        };
        let about = match flag.effect {
            Effect::Works => flag.about.to_owned(),
            Effect::Nothing(why) => format!("Without effect: {why}."),
            Effect::Refused(why) => format!("Only the default: {why}."),
        };
        let about = about.replace('|', "\\|");
        writeln!(out, "| `--{}` | {default} | {about} |", flag.name).unwrap();
    }
    out.push('\n');
    out
}

#[test]
fn the_page_has_every_flag() {
    let page = std::fs::read_to_string(PAGE).unwrap();
    let (before, rest) = page.split_once(BEGIN).unwrap();
    let (written, after) = rest.split_once(END).unwrap();
    let expect = table();
    if crate::cli::start::var("SETPOINT_UPDATE").is_some() {
        std::fs::write(PAGE, [before, BEGIN, &expect, END, after].concat()).unwrap();
    } else {
        assert!(
            written == expect,
            "docs/ops/drop-in.md differs from the list: SETPOINT_UPDATE=1"
        );
    }
}

#[test]
fn names_are_unique_and_variables_too() {
    let mut names: Vec<String> = FLAGS.iter().map(|flag| variable(flag.name)).collect();
    let all = names.len();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), all);
}
