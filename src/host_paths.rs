//! Which files of the host a config file may hand out: whoever may edit it need not be root on the node.

use std::path::{Component, Path, PathBuf};

/// Files that every node has and that give nothing away.
const HARMLESS: [&str; 5] = [
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
];

/// The host paths under which a config file may name files.
#[derive(Clone, Debug, Default)]
pub struct AllowedHostPaths {
    roots: Vec<PathBuf>,
    resolve: Option<Resolve>,
}

/// Resolves the symlinks of a path as far as it exists.
pub type Resolve = fn(&Path) -> PathBuf;

impl AllowedHostPaths {
    /// Allows what is under these directories, or is one of these files.
    pub fn new(roots: impl IntoIterator<Item = PathBuf>, resolve: Option<Resolve>) -> Self {
        let resolved = |root: PathBuf| resolved(&root, resolve);
        Self {
            roots: roots.into_iter().map(resolved).collect(),
            resolve,
        }
    }

    /// Whether a config file may name this file; one that is not absolute never.
    pub fn allow(&self, path: &str) -> bool {
        if !path.starts_with('/') {
            return false;
        }
        let path = resolved(Path::new(path), self.resolve);
        let harmless = HARMLESS.iter().any(|harmless| path == Path::new(harmless));
        harmless || self.roots.iter().any(|root| path.starts_with(root))
    }
}

fn resolved(path: &Path, resolve: Option<Resolve>) -> PathBuf {
    let path = resolve.map_or_else(|| path.to_owned(), |resolve| resolve(path));
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => drop(clean.pop()),
            Component::CurDir => {}
            other => clean.push(other),
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_under_an_allowed_path() {
        let allowed = AllowedHostPaths::new(["/opt/widget".into(), "/dev/gpu/../nic".into()], None);
        for path in [
            "/dev/null",
            "/opt/widget",
            "/opt/widget/a/b",
            "/opt/./widget/../widget/x",
            "/dev/nic/0",
        ] {
            assert!(allowed.allow(path), "{path}");
        }
        for path in [
            "",
            "opt/widget",
            "/",
            "/opt",
            "/opt/widgets",
            "/opt/widget/../../etc",
            "/dev/gpu/0",
            "/dev/null/..",
            "/dev/mem",
            "/../opt",
            "/opt/widget/../widget2",
        ] {
            assert!(!allowed.allow(path), "{path}");
        }
    }

    #[test]
    fn symlinks_are_resolved_first() {
        let through = |path: &Path| match path.strip_prefix("/opt/widget/link") {
            Ok(rest) => Path::new("/etc").join(rest),
            Err(_) => path.to_owned(),
        };
        let allowed = AllowedHostPaths::new(["/opt/widget".into()], Some(through));
        assert!(allowed.allow("/opt/widget/file"));
        assert!(!allowed.allow("/opt/widget/link/shadow"));
    }
}
