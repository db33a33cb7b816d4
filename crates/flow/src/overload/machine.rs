//! How much memory there is and how much is used, as Linux says it.
//!
//! Read from `/proc` and `/sys/fs/cgroup` below a root that is an argument, so that tests have machines of their own.
//!
//! Counted is what the kernel cannot take back: what a control group uses, less the pages of files on its lists and the
//! slabs that can be reclaimed. A store reads and writes files all the time; with their pages every machine is always
//! nearly full. Of nested groups the one that is nearest to its limit counts: the kernel kills in that one.
//!
//! - Version 2: `memory.max` and `memory.high` (above which the kernel slows the group down until it stands still; the
//!   lower one counts), `memory.current`, `memory.stat`.
//! - Version 1: `memory.limit_in_bytes`, `memory.usage_in_bytes`, `memory.stat`.

use std::fs;
use std::path::{Path, PathBuf};

use super::rules::MemoryLimit;

/// Version 1 writes "no limit" as the largest number of pages there can be.
const UNLIMITED: u64 = 1 << 62;

/// Memory at one moment, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// What is used and cannot be taken back.
    pub used: u64,
    /// What there is.
    pub limit: u64,
    /// Who says so.
    pub source: &'static str,
}

impl Reading {
    /// What is used, in per cent of what there is.
    #[must_use]
    pub fn per_cent(&self) -> f64 {
        self.used as f64 * 100.0 / self.limit.max(1) as f64
    }
}

/// Where a machine's files are.
#[derive(Clone, Debug)]
pub struct Machine {
    root: PathBuf,
}

impl Default for Machine {
    /// The one this process runs on.
    fn default() -> Self {
        Self::at("/")
    }
}

/// The names of one version's files.
struct Version {
    source: &'static str,
    limits: &'static [&'static str],
    used: &'static str,
    /// Lines of `memory.stat` that count what can be taken back.
    reclaimable: &'static [&'static str],
}

const V2: Version = Version {
    source: "cgroup v2",
    limits: &["memory.max", "memory.high"],
    used: "memory.current",
    reclaimable: &["inactive_file", "active_file", "slab_reclaimable"],
};

const V1: Version = Version {
    source: "cgroup v1",
    limits: &["memory.limit_in_bytes"],
    used: "memory.usage_in_bytes",
    reclaimable: &["total_inactive_file", "total_active_file"],
};

impl Machine {
    /// The machine whose files lie below `root`.
    #[must_use]
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Looks at what a budget is about; `None` when nothing limits it, or nobody says.
    #[must_use]
    pub fn read(&self, limit: MemoryLimit) -> Option<Reading> {
        match limit {
            MemoryLimit::Off => None,
            MemoryLimit::Cgroup => self.group(),
            MemoryLimit::Machine => self.whole(),
            MemoryLimit::Bytes(limit) => Some(Reading {
                used: self.own()?,
                limit,
                source: "process",
            }),
        }
    }

    fn whole(&self) -> Option<Reading> {
        let text = self.text("proc/meminfo")?;
        let limit = kib(&text, "MemTotal:")?;
        let available = kib(&text, "MemAvailable:")?;
        Some(Reading {
            used: limit.saturating_sub(available),
            limit,
            source: "machine",
        })
    }

    /// What the process has that is in no file.
    fn own(&self) -> Option<u64> {
        let text = self.text("proc/self/status")?;
        Some(kib(&text, "RssAnon:")? + kib(&text, "RssShmem:").unwrap_or(0))
    }

    fn text(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.root.join(path)).ok()
    }

    fn group(&self) -> Option<Reading> {
        let groups = self.text("proc/self/cgroup")?;
        let of = |line: &str| {
            let (_, rest) = line.split_once(':')?;
            let (controllers, path) = rest.split_once(':')?;
            let v1 = controllers.split(',').any(|name| name == "memory");
            (v1 || controllers.is_empty()).then(|| (v1, path.to_owned()))
        };
        let found: Vec<_> = groups.lines().filter_map(of).collect();
        // A machine with both has its memory in version 1.
        let (v1, path) = found
            .iter()
            .find(|(v1, _)| *v1)
            .or_else(|| found.first())
            .cloned()?;
        let (version, mount) = if v1 {
            (&V1, self.root.join("sys/fs/cgroup/memory"))
        } else {
            (&V2, self.root.join("sys/fs/cgroup"))
        };
        self.nearest(version, &mount, &path)
    }

    /// The group of `path` and those around it: the one that is nearest to its limit.
    fn nearest(&self, version: &Version, mount: &Path, path: &str) -> Option<Reading> {
        // Seen from inside a container the path may be one of the host's; the mount is then the group itself.
        let inside = path.trim_start_matches('/');
        let named = mount.join(inside);
        let known = !inside.split('/').any(|part| part == "..") && named.join(version.used).exists();
        let mut group = if known { named } else { mount.to_owned() };
        let mut nearest: Option<Reading> = None;
        loop {
            if let Some(reading) = one(version, &group)
                && nearest.is_none_or(|nearest| nearest.per_cent() < reading.per_cent())
            {
                nearest = Some(reading);
            }
            if group == mount || !group.pop() {
                break;
            }
        }
        // A limit that is more than the machine has is none.
        let machine = self.whole().map_or(u64::MAX, |whole| whole.limit);
        nearest.filter(|nearest| nearest.limit <= machine)
    }
}

/// One group by itself.
fn one(version: &Version, group: &Path) -> Option<Reading> {
    let number = |name: &str| -> Option<u64> {
        let text = fs::read_to_string(group.join(name)).ok()?;
        text.trim().parse().ok()
    };
    let limits = version.limits.iter().filter_map(|name| number(name));
    let limit = limits.min().filter(|limit| *limit < UNLIMITED)?;
    let stat = fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
    let reclaimable: u64 = stat
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter(|(name, _)| version.reclaimable.contains(name))
        .filter_map(|(_, number)| number.trim().parse::<u64>().ok())
        .fold(0, u64::saturating_add);
    Some(Reading {
        used: number(version.used)?.saturating_sub(reclaimable),
        limit,
        source: version.source,
    })
}

/// A line of a file of `/proc` that counts KiB.
fn kib(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim()
        .strip_suffix("kB")?
        .trim()
        .parse::<u64>()
        .ok()?
        .checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine with these files, in a directory that goes with it.
    struct Fake(PathBuf);

    impl Drop for Fake {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    impl Fake {
        fn new(name: &str, files: &[(&str, &str)]) -> Self {
            let dir = std::env::temp_dir().join(format!("setpoint-machine-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&dir);
            let fake = Self(dir);
            let whole = (
                "proc/meminfo",
                "MemTotal:  8192 kB\nMemFree: 1 kB\nMemAvailable:  2048 kB\n",
            );
            for (path, text) in files.iter().chain([&whole]) {
                let path = fake.0.join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            fake
        }

        fn read(&self, limit: MemoryLimit) -> Option<(u64, u64, &'static str)> {
            let reading = Machine::at(&self.0).read(limit)?;
            Some((reading.used, reading.limit, reading.source))
        }
    }

    #[test]
    fn version_2_counts_what_cannot_be_taken_back() {
        let fake = Fake::new(
            "v2",
            &[
                ("proc/self/cgroup", "0::/pod/box\n"),
                ("sys/fs/cgroup/pod/box/memory.max", "max\n"),
                ("sys/fs/cgroup/pod/box/memory.high", "1000\n"),
                ("sys/fs/cgroup/pod/box/memory.current", "900\n"),
                (
                    "sys/fs/cgroup/pod/box/memory.stat",
                    "anon 300\nfile 500\ninactive_file 400\nactive_file 100\nslab_reclaimable 10\n",
                ),
                ("sys/fs/cgroup/pod/memory.max", "10000\n"),
                ("sys/fs/cgroup/pod/memory.current", "1000\n"),
            ],
        );
        assert_eq!(fake.read(MemoryLimit::Cgroup), Some((390, 1000, "cgroup v2")));
    }

    #[test]
    fn of_nested_groups_the_one_in_need_counts() {
        let fake = Fake::new(
            "nested",
            &[
                ("proc/self/cgroup", "0::/pod/box\n"),
                ("sys/fs/cgroup/pod/box/memory.max", "1000\n"),
                ("sys/fs/cgroup/pod/box/memory.current", "100\n"),
                ("sys/fs/cgroup/pod/memory.max", "4000\n"),
                ("sys/fs/cgroup/pod/memory.current", "3900\n"),
            ],
        );
        assert_eq!(fake.read(MemoryLimit::Cgroup), Some((3900, 4000, "cgroup v2")));
    }

    #[test]
    fn inside_a_container_the_mount_is_the_group() {
        for path in ["/kubepods/pod1/abc", "/../../host", "/"] {
            let fake = Fake::new(
                "inside",
                &[
                    ("proc/self/cgroup", &format!("0::{path}\n")),
                    ("sys/fs/cgroup/memory.max", "1000\n"),
                    ("sys/fs/cgroup/memory.current", "700\n"),
                ],
            );
            assert_eq!(
                fake.read(MemoryLimit::Cgroup),
                Some((700, 1000, "cgroup v2")),
                "{path}"
            );
        }
    }

    #[test]
    fn version_1_is_asked_where_it_has_the_memory() {
        let fake = Fake::new(
            "v1",
            &[
                ("proc/self/cgroup", "5:cpu,cpuacct:/a\n4:memory:/a\n0::/a\n"),
                ("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "1000\n"),
                ("sys/fs/cgroup/memory/a/memory.usage_in_bytes", "800\n"),
                (
                    "sys/fs/cgroup/memory/a/memory.stat",
                    "cache 1\ntotal_inactive_file 50\ntotal_active_file 50\n",
                ),
                (
                    "sys/fs/cgroup/memory/memory.limit_in_bytes",
                    "9223372036854771712\n",
                ),
                ("sys/fs/cgroup/memory/memory.usage_in_bytes", "123456789\n"),
            ],
        );
        assert_eq!(fake.read(MemoryLimit::Cgroup), Some((700, 1000, "cgroup v1")));
    }

    #[test]
    fn without_a_limit_there_is_no_reading() {
        for (name, files) in [
            ("none", vec![]),
            (
                "unlimited",
                vec![
                    ("proc/self/cgroup", "4:memory:/\n"),
                    (
                        "sys/fs/cgroup/memory/memory.limit_in_bytes",
                        "9223372036854771712\n",
                    ),
                    ("sys/fs/cgroup/memory/memory.usage_in_bytes", "1\n"),
                ],
            ),
            (
                "more-than-there-is",
                vec![
                    ("proc/self/cgroup", "0::/\n"),
                    ("sys/fs/cgroup/memory.max", "99999999999\n"),
                    ("sys/fs/cgroup/memory.current", "1\n"),
                ],
            ),
            (
                "nonsense",
                vec![
                    ("proc/self/cgroup", "::::\n0::\n\u{0}\n"),
                    ("sys/fs/cgroup/memory.max", "much\n"),
                    ("sys/fs/cgroup/memory.current", "-1\n"),
                ],
            ),
        ] {
            assert_eq!(Fake::new(name, &files).read(MemoryLimit::Cgroup), None, "{name}");
        }
    }

    #[test]
    fn the_machine_and_the_process_can_be_asked_instead() {
        let fake = Fake::new(
            "whole",
            &[(
                "proc/self/status",
                "Name: x\nRssAnon:\t    10 kB\nRssShmem:\t  2 kB\n",
            )],
        );
        let (kib, limit) = (1024, MemoryLimit::Bytes(5_000));
        assert_eq!(
            fake.read(MemoryLimit::Machine),
            Some((6144 * kib, 8192 * kib, "machine"))
        );
        assert_eq!(fake.read(limit), Some((12 * kib, 5_000, "process")));
        assert_eq!(fake.read(MemoryLimit::Off), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_machine_answers() {
        let own = Machine::default().read(MemoryLimit::Bytes(1 << 40)).unwrap();
        assert!(own.used > 100_000, "{own:?}");
        let whole = Machine::default().read(MemoryLimit::Machine).unwrap();
        assert!(whole.used > own.used && whole.used < whole.limit, "{whole:?}");
    }
}
