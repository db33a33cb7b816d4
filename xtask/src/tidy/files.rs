//! What a single file may look like.

use std::fs;

use anyhow::{Context, Result};

use crate::shell::{root, say};

/// Longest source file; half of ours should stay below 300 lines.
const LINES_MAX: usize = 600;
/// From here on a file is reported, not refused.
const LINES_REPORTED: usize = 400;

/// A word that may not stand in our source, with the remedy and where it is fine all the same.
struct Ban {
    word: &'static str,
    remedy: &'static str,
    /// Only files whose path contains this are looked at.
    within: &'static str,
    /// Files whose path contains one of these are left alone.
    except: &'static [&'static str],
}

const CORE: &str = "/core/";
/// Who may look at arguments and environment: the binary, and what never ships.
const ENVIRONMENT: &[&str] = &[
    "crates/setpoint/",
    "/tests/",
    "/tests.rs",
    "/testing.rs",
    "/build.rs",
    "/benches/",
    "crates/testkit/",
];
const BANS: &[Ban] = &[
    Ban {
        word: concat!("TO", "DO"),
        remedy: "finish it or leave it out",
        within: "",
        except: &[],
    },
    Ban {
        word: concat!("FIX", "ME"),
        remedy: "finish it or leave it out",
        within: "",
        except: &[],
    },
    Ban {
        word: concat!("#[", "ignore"),
        remedy: "a test that never runs proves nothing: fix or delete it",
        within: "",
        except: &[],
    },
    Ban {
        word: concat!("#[should", "_panic"),
        remedy: "assert the outcome instead",
        within: "",
        except: &[],
    },
    Ban {
        word: concat!("unbounded", "_channel("),
        remedy: "name the bound and what happens when it is full",
        within: "",
        except: &[],
    },
    Ban {
        word: concat!("env::", "var"),
        remedy: "only the binary reads the environment: take an option",
        within: "crates/",
        except: ENVIRONMENT,
    },
    Ban {
        word: concat!("env::", "args"),
        remedy: "only the binary reads arguments: take an option",
        within: "crates/",
        except: ENVIRONMENT,
    },
    Ban {
        word: concat!("std::", "fs"),
        remedy: "core modules do no I/O: return what should be done",
        within: CORE,
        except: &[],
    },
    Ban {
        word: concat!("tokio::", "net"),
        remedy: "core modules do no I/O: return what should be done",
        within: CORE,
        except: &[],
    },
    Ban {
        word: concat!("std::", "net"),
        remedy: "core modules do no I/O: return what should be done",
        within: CORE,
        except: &[],
    },
    Ban {
        word: concat!("thread::", "sleep"),
        remedy: "core modules take the time as an argument",
        within: CORE,
        except: &[],
    },
    Ban {
        word: concat!("std::", "fs"),
        remedy: "apimachinery does no I/O",
        within: "crates/apimachinery/src/",
        except: &["/tests.rs"],
    },
    Ban {
        word: concat!("tokio", "::"),
        remedy: "apimachinery spawns nothing",
        within: "crates/apimachinery/src/",
        except: &["/tests.rs"],
    },
    Ban {
        word: concat!("setpoint", "_store"),
        remedy: "only apiserver and setpoint see the store",
        within: "crates/runtime/",
        except: &[],
    },
];

/// Checks every tracked Rust file.
pub(crate) fn check(tracked: &[String], problems: &mut Vec<String>) -> Result<()> {
    let mut long = Vec::new();
    for path in tracked.iter().filter(|path| path.ends_with(".rs")) {
        let text = fs::read_to_string(root().join(path)).with_context(|| format!("read {path}"))?;
        let lines = text.lines().count();
        if lines > LINES_MAX {
            problems.push(format!(
                "{path}: {lines} lines: split it by noun, at most {LINES_MAX}"
            ));
        } else if lines > LINES_REPORTED {
            long.push(format!("{path} ({lines})"));
        }
        check_text(path, &text, problems);
    }
    if !long.is_empty() {
        say(&format!("tidy: over {LINES_REPORTED} lines: {}", long.join(", ")));
    }
    for crate_dir in crate_dirs(tracked) {
        if !tracked.contains(&format!("{crate_dir}/README.md")) {
            problems.push(format!(
                "{crate_dir}: has no README.md: say what it is, what it is not, where to start"
            ));
        }
    }
    Ok(())
}

fn check_text(path: &str, text: &str, problems: &mut Vec<String>) {
    if !text.starts_with("//!") && !text.starts_with("#!") {
        problems.push(format!(
            "{path}: begins without a `//!` line: say what the file is for"
        ));
    }
    for (number, line) in text.lines().enumerate() {
        for ban in BANS {
            let looked_at = path.contains(ban.within) && !ban.except.iter().any(|part| path.contains(part));
            if looked_at && line.contains(ban.word) {
                problems.push(format!("{path}:{}: `{}`: {}", number + 1, ban.word, ban.remedy));
            }
        }
    }
}

fn crate_dirs(tracked: &[String]) -> Vec<&str> {
    tracked
        .iter()
        .filter(|path| path.starts_with("crates/"))
        .filter_map(|path| path.strip_suffix("/Cargo.toml"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(path: &str, text: &str) -> usize {
        let mut problems = Vec::new();
        check_text(path, text, &mut problems);
        problems.len()
    }

    #[test]
    fn a_file_says_what_it_is_for() {
        assert_eq!(problems("crates/x/src/a.rs", "//! A.\n"), 0);
        assert_eq!(problems("crates/x/src/a.rs", "fn a() {}\n"), 1);
    }

    #[test]
    fn the_environment_is_read_by_the_binary_alone() {
        let text = concat!("//! A.\nlet x = std::env::", "var_os(\"X\");\n");
        assert_eq!(problems("crates/store/src/a.rs", text), 1);
        assert_eq!(problems("crates/setpoint/src/a.rs", text), 0);
    }

    #[test]
    fn cores_do_no_io() {
        let text = concat!("//! A.\nuse std::", "fs;\n");
        assert_eq!(problems("crates/store/src/core/a.rs", text), 1);
        assert_eq!(problems("crates/store/src/log/a.rs", text), 0);
    }
}
