//! The modules of the daemon: each imports only from those above it in the table of ARCHITECTURE.md.

use std::fs;
use std::path::{Path, PathBuf};

const ARCHITECTURE: &str = include_str!("../../ARCHITECTURE.md");

/// The modules in the order of the table.
fn modules() -> Vec<&'static str> {
    let rows = ARCHITECTURE
        .lines()
        .filter_map(|line| line.strip_prefix("| `"));
    rows.filter_map(|row| row.split_once("/`"))
        .map(|(name, _)| name)
        .collect()
}

fn sources(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).expect("a directory");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths
        .flat_map(|path| {
            if path.is_dir() {
                sources(&path)
            } else {
                vec![path]
            }
        })
        .collect()
}

/// The names of the modules that a source file imports outside of its tests.
fn imports(source: &str) -> impl Iterator<Item = &str> {
    let code = source.split("#[cfg(test)]").next().unwrap_or_default();
    let paths = code.split("crate::").skip(1);
    paths.map(|path| {
        path.split(|c: char| !c.is_alphanumeric() && c != '_')
            .next()
            .unwrap_or_default()
    })
}

#[test]
fn a_module_imports_only_from_modules_above_it() {
    let modules = modules();
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let dirs = fs::read_dir(&src)
        .expect("src")
        .map(|entry| entry.expect("an entry").path());
    let mut folders: Vec<_> = dirs.filter(|path| path.is_dir()).collect();
    folders.sort();
    assert_eq!(
        folders.len(),
        modules.len(),
        "ARCHITECTURE.md has a row for each module: {modules:?}"
    );
    for folder in folders {
        let name = folder
            .file_name()
            .and_then(|name| name.to_str())
            .expect("a name");
        let own = modules.iter().position(|module| *module == name);
        let own = own.unwrap_or_else(|| panic!("ARCHITECTURE.md has no row for {name}"));
        for path in sources(&folder) {
            let source = fs::read_to_string(&path).expect("a source");
            for import in imports(&source) {
                let above = modules[..=own].contains(&import);
                assert!(above, "{} imports crate::{import}", path.display());
            }
        }
    }
}
