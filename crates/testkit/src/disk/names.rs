//! The names on a simulated disk: as programs see them, and as they would survive.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// One effect on one name.
enum Effect {
    Link(u64),
    Unlink,
}

/// A change of names that its directory's sync makes durable, all of it or nothing.
struct Unsynced {
    dir: PathBuf,
    effects: Vec<(PathBuf, Effect)>,
}

/// Which name leads to which file.
#[derive(Default)]
pub(super) struct Names {
    now: BTreeMap<PathBuf, u64>,
    durable: BTreeMap<PathBuf, u64>,
    dirs: BTreeSet<PathBuf>,
    unsynced: Vec<Unsynced>,
}

impl Names {
    pub(super) fn add_dir(&mut self, dir: &Path) {
        self.dirs.extend(dir.ancestors().map(Path::to_owned));
    }

    pub(super) fn get(&self, path: &Path) -> Option<u64> {
        self.now.get(path).copied()
    }

    /// Whether a file has a name now or would have one after a crash.
    pub(super) fn holds(&self, id: u64) -> bool {
        let links = |effects: &[(PathBuf, Effect)]| {
            effects
                .iter()
                .any(|(_, e)| matches!(e, Effect::Link(to) if *to == id))
        };
        self.now.values().any(|to| *to == id)
            || self.durable.values().any(|to| *to == id)
            || self.unsynced.iter().any(|change| links(&change.effects))
    }

    pub(super) fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        self.now.keys()
    }

    /// The names in a directory, sorted.
    pub(super) fn list(&self, dir: &Path) -> Vec<String> {
        let inside = |path: &&PathBuf| path.parent() == Some(dir) && path.as_path() != dir;
        let name = |path: &PathBuf| path.file_name().map(|name| name.to_string_lossy().into_owned());
        let files = self.now.keys().filter(inside).filter_map(name);
        let mut names: Vec<_> = files
            .chain(self.dirs.iter().filter(inside).filter_map(name))
            .collect();
        names.sort();
        names
    }

    pub(super) fn link(&mut self, path: &Path, id: u64) {
        self.change(path, vec![(path.to_owned(), Effect::Link(id))]);
    }

    pub(super) fn unlink(&mut self, path: &Path) {
        self.change(path, vec![(path.to_owned(), Effect::Unlink)]);
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path, id: u64) {
        self.change(
            to,
            vec![
                (from.to_owned(), Effect::Unlink),
                (to.to_owned(), Effect::Link(id)),
            ],
        );
    }

    fn change(&mut self, path: &Path, effects: Vec<(PathBuf, Effect)>) {
        apply(&mut self.now, &effects);
        let dir = path.parent().unwrap_or(Path::new("")).to_owned();
        self.unsynced.push(Unsynced { dir, effects });
    }

    pub(super) fn sync_dir(&mut self, dir: &Path) {
        for change in self.unsynced.extract_if(.., |change| change.dir == dir) {
            apply(&mut self.durable, &change.effects);
        }
    }

    pub(super) fn sync_all(&mut self) {
        self.durable = self.now.clone();
        self.unsynced.clear();
    }

    /// The names after the power came back: synced changes, and any of the others.
    pub(super) fn after_crash(&self, rng: &mut fastrand::Rng) -> Self {
        let mut names = self.durable.clone();
        // A journal keeps a beginning of the changes; a file system without one keeps any of them.
        let journal = rng.bool();
        let kept = rng.usize(..=self.unsynced.len());
        for (n, change) in self.unsynced.iter().enumerate() {
            if if journal { n < kept } else { rng.bool() } {
                apply(&mut names, &change.effects);
            }
        }
        Self {
            now: names.clone(),
            durable: names,
            dirs: self.dirs.clone(),
            unsynced: Vec::new(),
        }
    }
}

fn apply(names: &mut BTreeMap<PathBuf, u64>, effects: &[(PathBuf, Effect)]) {
    for (path, effect) in effects {
        match effect {
            Effect::Link(id) => names.insert(path.clone(), *id),
            Effect::Unlink => names.remove(path),
        };
    }
}
