//! Tests that each module of the daemon imports only from modules above it in the table of ARCHITECTURE.md.

use std::fs;
use std::path::{Path, PathBuf};

const ARCHITECTURE: &str = include_str!("../../ARCHITECTURE.md");

/// Returns the modules in the order of the table.
fn modules() -> Vec<&'static str> {
    let lines = ARCHITECTURE.lines();
    let rows = lines.filter_map(|line| line.strip_prefix("| `"));
    let names = rows.filter_map(|row| row.split_once("/`"));
    names.map(|(name, _)| name).collect()
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

/// Returns the modules that a source file imports outside of its unit tests. The path is relative to `src`.
fn imports(path: &Path, source: &str) -> Vec<String> {
    let code = source.split("#[cfg(test)]\nmod tests {").next();
    let is_mod = path.file_name().is_some_and(|name| name == "mod.rs");
    let depth = path.components().count() - usize::from(is_mod);
    let code = code
        .unwrap_or_default()
        .replace(&"super::".repeat(depth), "crate::");
    let paths = code.split("crate::").skip(1);
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    paths
        .map(|path| path.chars().take_while(|c| is_name(*c)).collect())
        .collect()
}

#[test]
fn a_module_imports_only_from_modules_above_it() {
    let modules = modules();
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let files = sources(&src);
    for path in &files {
        let path = path.strip_prefix(&src).expect("a path below src");
        let folder = path.parent().and_then(|path| path.iter().next());
        // main.rs and lib.rs have no folder.
        let Some(folder) = folder.and_then(|name| name.to_str()) else {
            continue;
        };
        let own = modules.iter().position(|module| *module == folder);
        let own = own.unwrap_or_else(|| panic!("ARCHITECTURE.md has no row for {folder}"));
        let source = fs::read_to_string(src.join(path)).expect("a source");
        for import in imports(path, &source) {
            let is_above = modules[..=own].contains(&&*import);
            assert!(is_above, "{} imports crate::{import}", path.display());
        }
    }
    for module in modules {
        assert!(src.join(module).is_dir(), "there is no src/{module}");
    }
}

#[test]
fn finds_absolute_and_relative_imports() {
    let source = "use crate::model::device::Device;\n#[cfg(test)]\nmod tests;\nuse super::super::node;\n\
                  #[cfg(test)]\nmod tests {\n    use crate::cli;\n}\n";
    assert_eq!(
        imports(Path::new("config/values.rs"), source),
        ["model", "node"]
    );
    assert_eq!(
        imports(Path::new("config/file/mod.rs"), source),
        ["model", "node"]
    );
    assert_eq!(imports(Path::new("config/file/keys.rs"), source), ["model"]);
    assert_eq!(
        imports(Path::new("config/mod.rs"), "use super::cli;"),
        ["cli"]
    );
}
