//! Helpers of this crate's unit tests.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::resources::{ResourceInfo, VERBS};

/// A directory that is removed when dropped.
pub(crate) struct TempDir(PathBuf);

impl TempDir {
    pub(crate) fn new() -> Self {
        let name = format!(
            "setpoint-apiserver-{}-{:016x}",
            std::process::id(),
            fastrand::u64(..)
        );
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A file of the corpus; `None`, with a note, where there is no corpus.
pub(crate) fn corpus(path: &str) -> Option<Vec<u8>> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/corpus");
    let root = option_env!("SETPOINT_CORPUS").map_or_else(beside, PathBuf::from);
    let file = std::fs::read(root.join(path)).ok();
    if file.is_none() {
        println!("skipped: no corpus file {path}");
    }
    file
}

/// A namespaced resource in its storage version with every verb; `change` makes it another.
pub(crate) fn resource(
    group: &str,
    version: &str,
    plural: &str,
    kind: &str,
    change: impl FnOnce(&mut ResourceInfo),
) -> Arc<ResourceInfo> {
    let mut info = ResourceInfo {
        schema: crate::schema::ResourceSchema::Builtin(&setpoint_apimachinery::kinds::BUILTIN[1]),
        storage_api_version: "v1".into(),
        selectable: Vec::new(),
        home: Arc::new(crate::storage::Storage::new(
            group,
            plural,
            true,
            None,
            &setpoint_base::Stop::new(),
        )),
        group: group.into(),
        version: version.into(),
        plural: plural.into(),
        singular: kind.to_lowercase().into(),
        kind: kind.into(),
        list_kind: format!("{kind}List").into(),
        short_names: Vec::new(),
        categories: Vec::new(),
        namespaced: true,
        verbs: VERBS,
        status: false,
        storage: true,
    };
    change(&mut info);
    Arc::new(info)
}
