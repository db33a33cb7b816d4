//! A project folder: `setpoint.yaml`, the manifests it names, the programs it runs.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};

use super::policy::Restart;

/// The name of the project file.
pub(crate) const FILE: &str = "setpoint.yaml";
/// Largest manifest file, in bytes; the API server takes 3 MiB an object.
const FILE_BYTES_MAX: u64 = 16 << 20;
/// Most manifest files in one project.
const FILES_MAX: usize = 10_000;

/// What `setpoint.yaml` says.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ProjectFile {
    /// Which files are manifests; `*` and `?` match within one path component.
    pub(crate) manifests: Option<Vec<String>>,
    /// Programs to run beside the plane.
    pub(crate) run: Vec<Run>,
    /// Settings of the plane, as the flags without their dashes.
    pub(crate) plane: BTreeMap<String, Scalar>,
}

/// One program.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Run {
    pub(crate) name: String,
    pub(crate) command: Vec<String>,
    #[serde(default)]
    pub(crate) env: BTreeMap<String, Scalar>,
    /// Variables that each get the number of a free port.
    #[serde(default)]
    pub(crate) ports: Vec<String>,
    #[serde(default)]
    pub(crate) restart: Restart,
    /// Where it runs, relative to the project; the project's folder by default.
    #[serde(default)]
    pub(crate) dir: Option<PathBuf>,
}

/// A value that may be written with or without quotes.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Scalar {
    Bool(bool),
    Integer(i64),
    Text(String),
}

impl Scalar {
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Bool(value) => value.to_string(),
            Self::Integer(value) => value.to_string(),
            Self::Text(value) => value.clone(),
        }
    }
}

/// One object to apply.
#[derive(Clone, Debug)]
pub(crate) struct Manifest {
    /// Where it was read, for messages.
    pub(crate) file: PathBuf,
    pub(crate) object: Map<String, Value>,
}

impl Manifest {
    fn text(&self, pointer: [&str; 2]) -> &str {
        let value = match pointer {
            ["", field] => self.object.get(field),
            [outer, field] => self.object.get(outer).and_then(|value| value.get(field)),
        };
        value.and_then(Value::as_str).unwrap_or_default()
    }

    pub(crate) fn api_version(&self) -> &str {
        self.text(["", "apiVersion"])
    }

    pub(crate) fn kind(&self) -> &str {
        self.text(["", "kind"])
    }

    pub(crate) fn name(&self) -> &str {
        self.text(["metadata", "name"])
    }

    /// The namespace it names; empty when it names none.
    pub(crate) fn namespace(&self) -> &str {
        self.text(["metadata", "namespace"])
    }

    /// What has to exist before what: definitions, then namespaces, then the rest in the order of the files.
    pub(crate) fn rank(&self) -> u8 {
        match self.kind() {
            "CustomResourceDefinition" => 0,
            "Namespace" => 1,
            _ => 2,
        }
    }
}

/// A folder, read.
#[derive(Debug, Default)]
pub(crate) struct Project {
    pub(crate) dir: PathBuf,
    pub(crate) file: ProjectFile,
    pub(crate) manifests: Vec<Manifest>,
    /// Variables for all programs, under those that a program's entry sets itself.
    pub(crate) env: BTreeMap<String, String>,
}

impl Project {
    /// Reads the folder; adds every problem to `problems`.
    pub(crate) fn load(dir: &Path, problems: &mut Vec<String>) -> Self {
        if !dir.is_dir() {
            problems.push(format!(
                "{} is not a directory: give the folder of a project",
                dir.display()
            ));
            return Self::default();
        }
        let path = dir.join(FILE);
        let file = match fs::read_to_string(&path) {
            Ok(text) => parse_file(&path, &text, problems),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => ProjectFile::default(),
            Err(error) => {
                problems.push(format!("read {}: {error}", path.display()));
                ProjectFile::default()
            }
        };
        let mut manifests = Vec::new();
        for path in manifest_files(dir, file.manifests.as_deref(), problems) {
            read_manifests(&path, &mut manifests, problems);
        }
        manifests.sort_by_key(Manifest::rank);
        Self {
            dir: dir.to_owned(),
            file,
            manifests,
            env: BTreeMap::new(),
        }
    }

    /// The settings of the plane as text.
    pub(crate) fn plane_settings(&self) -> BTreeMap<String, String> {
        let settings = self.file.plane.iter();
        settings
            .map(|(name, value)| (name.clone(), value.text()))
            .collect()
    }
}

fn parse_file(path: &Path, text: &str, problems: &mut Vec<String>) -> ProjectFile {
    // An empty file is an empty project.
    let parsed = serde_saphyr::from_str::<Option<ProjectFile>>(text);
    let file = match parsed {
        Ok(file) => file.unwrap_or_default(),
        Err(error) => {
            problems.push(format!("{}: {error}", path.display()));
            return ProjectFile::default();
        }
    };
    let mut names = std::collections::BTreeSet::new();
    for run in &file.run {
        let valid = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if run.name.is_empty() || run.name.len() > 63 || !run.name.bytes().all(valid) {
            problems.push(format!(
                "{}: the program name {:?} is not usable: take 1 to 63 letters, digits, - or _",
                path.display(),
                run.name
            ));
        }
        if !names.insert(&run.name) {
            problems.push(format!(
                "{}: two programs are called {:?}",
                path.display(),
                run.name
            ));
        }
        if run.command.first().is_none_or(String::is_empty) {
            problems.push(format!(
                "{}: the command of {:?} is empty",
                path.display(),
                run.name
            ));
        }
    }
    file
}

fn manifest_files(dir: &Path, patterns: Option<&[String]>, problems: &mut Vec<String>) -> Vec<PathBuf> {
    let default = ["*.yaml", "*.yml", "*.json"].map(str::to_owned);
    let said = patterns.is_some();
    let mut files = Vec::new();
    for pattern in patterns.unwrap_or(&default) {
        let mut found = vec![dir.to_owned()];
        for component in pattern.split('/').filter(|part| !part.is_empty() && *part != ".") {
            found = found.iter().flat_map(|base| step(base, component)).collect();
            found.truncate(FILES_MAX);
        }
        found.retain(|path| path.is_file() && path != &dir.join(FILE));
        if found.is_empty() && said {
            problems.push(format!(
                "{}: no file matches the manifest pattern {pattern:?}",
                dir.join(FILE).display()
            ));
        }
        files.extend(found);
    }
    files.sort();
    files.dedup();
    files
}

/// The entries of `base` that match one component of a pattern.
fn step(base: &Path, component: &str) -> Vec<PathBuf> {
    if !component.contains(['*', '?']) {
        return vec![base.join(component)];
    }
    let Ok(entries) = fs::read_dir(base) else {
        return Vec::new();
    };
    let names = entries.flatten().map(|entry| entry.file_name());
    names
        .filter(|name| matches(component.as_bytes(), name.as_encoded_bytes()))
        .map(|name| base.join(name))
        .collect()
}

/// Shell-like match within a component. A leading dot is matched only when written.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    fn glob(pattern: &[u8], name: &[u8]) -> bool {
        match (pattern.split_first(), name.split_first()) {
            (None, None) => true,
            (Some((b'*', rest)), _) => (0..=name.len()).any(|skip| glob(rest, &name[skip..])),
            (Some((b'?', rest)), Some((_, left))) => glob(rest, left),
            (Some((a, rest)), Some((b, left))) => a == b && glob(rest, left),
            _ => false,
        }
    }
    (name.first() != Some(&b'.') || pattern.first() == Some(&b'.')) && glob(pattern, name)
}

fn read_manifests(path: &Path, manifests: &mut Vec<Manifest>, problems: &mut Vec<String>) {
    let text = match fs::metadata(path).map(|metadata| metadata.len()) {
        Ok(len) if len > FILE_BYTES_MAX => {
            problems.push(format!(
                "{} has {len} bytes, more than {FILE_BYTES_MAX}: split it",
                path.display()
            ));
            return;
        }
        _ => fs::read_to_string(path),
    };
    let text = match text {
        Ok(text) => text,
        Err(error) => {
            problems.push(format!("read {}: {error}", path.display()));
            return;
        }
    };
    // JSON is YAML, but the other way round a JSON file deserves a JSON error.
    let parsed = if path.extension().is_some_and(|extension| extension == "json") {
        serde_json::from_str(&text)
            .map(|value| vec![value])
            .map_err(|error| error.to_string())
    } else {
        let options = serde_saphyr::options! { strict_booleans: true };
        serde_saphyr::from_multiple_with_options::<Value>(&text, options).map_err(|error| error.to_string())
    };
    match parsed {
        Ok(documents) => {
            for document in documents {
                take_document(path, document, manifests, problems);
            }
        }
        Err(error) => problems.push(format!("{}: {error}", path.display())),
    }
}

fn take_document(path: &Path, document: Value, manifests: &mut Vec<Manifest>, problems: &mut Vec<String>) {
    let object = match document {
        Value::Null => return,
        Value::Object(object) => object,
        other => {
            problems.push(format!(
                "{}: a document is {other}: an object was expected",
                path.display()
            ));
            return;
        }
    };
    let mut manifest = Manifest {
        file: path.to_owned(),
        object,
    };
    if manifest.kind() == "List" {
        if let Some(Value::Array(items)) = manifest.object.remove("items") {
            for item in items {
                take_document(path, item, manifests, problems);
            }
        }
        return;
    }
    let missing = [
        ("apiVersion", manifest.api_version()),
        ("kind", manifest.kind()),
        ("metadata.name", manifest.name()),
    ];
    let missing: Vec<&str> = missing
        .iter()
        .filter(|(_, value)| value.is_empty())
        .map(|(name, _)| *name)
        .collect();
    if missing.is_empty() {
        manifests.push(manifest);
    } else {
        problems.push(format!(
            "{}: an object has no {}",
            path.display(),
            missing.join(", no ")
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Loads a folder made of the given files.
    fn load(files: &[(&str, &str)]) -> (Project, Vec<String>) {
        let dir = crate::envtest::TempDir::new().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let mut problems = Vec::new();
        let project = Project::load(dir.path(), &mut problems);
        (project, problems)
    }

    const SITE: &str = "apiVersion: demo/v1\nkind: Site\nmetadata: {name: a}\n";
    const CRD: &str =
        "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: c}\n";

    #[test]
    fn a_folder_without_a_project_file_is_its_manifests_definitions_first() {
        let (project, problems) = load(&[
            ("a.yaml", &format!("{SITE}---\n# nothing\n---\n{CRD}")),
            (
                "b.json",
                "{\"apiVersion\":\"v1\",\"kind\":\"Namespace\",\"metadata\":{\"name\":\"n\"}}",
            ),
            (".hidden.yaml", "not: [a manifest"),
            ("notes.txt", "x"),
        ]);
        assert_eq!(problems, Vec::<String>::new());
        let kinds: Vec<&str> = project.manifests.iter().map(Manifest::kind).collect();
        assert_eq!(kinds, ["CustomResourceDefinition", "Namespace", "Site"]);
    }

    #[test]
    fn a_project_file_names_manifests_programs_and_settings() {
        let (project, problems) = load(&[
            (
                FILE,
                "manifests: ['deploy/*/s?te.yaml']\nplane: {etcd-listen: '127.0.0.1:0', etcd-writes-registry: true}\n\
                 run:\n- {name: op, command: [./op, -v], env: {N: 3}, ports: [PORT], restart: always, dir: ..}\n",
            ),
            ("deploy/x/site.yaml", SITE),
            ("deploy/x/other.yaml", "broken: ["),
        ]);
        assert_eq!(problems, Vec::<String>::new());
        assert_eq!(project.manifests.len(), 1);
        assert_eq!(project.plane_settings()["etcd-writes-registry"], "true");
        let run = &project.file.run[0];
        assert_eq!(
            (run.restart, run.env["N"].text().as_str()),
            (Restart::Always, "3")
        );
    }

    #[test]
    fn every_problem_of_a_folder_is_reported_with_its_file() {
        let (_, problems) = load(&[
            (
                FILE,
                "manifests: ['*.yaml', 'none/*.yaml']\nrun:\n- {name: 'a b', command: []}\n",
            ),
            ("a.yaml", "apiVersion: v1\nkind: ConfigMap\n"),
            ("b.yaml", "- 1\n"),
            ("c.yaml", "a: [1\n"),
        ]);
        let all = problems.join("\n");
        for expected in [
            "program name \"a b\"",
            "the command of \"a b\" is empty",
            "no file matches",
            "a.yaml: an object has no metadata.name",
            "b.yaml: a document is [1]",
            "c.yaml: ",
        ] {
            assert!(all.contains(expected), "{expected:?} in {all}");
        }
        assert_eq!(problems.len(), 6, "{all}");
    }

    #[test]
    fn unknown_fields_of_the_project_file_are_refused() {
        let (_, problems) = load(&[(FILE, "runs: []\n")]);
        assert!(problems[0].contains("runs"), "{problems:?}");
    }
}
