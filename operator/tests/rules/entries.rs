//! Keeps tests where they are run: the programs that are only an entry are told to Cargo as untested, and so they must hold no tests.

use std::{fs, path::Path};

#[test]
fn programs_that_are_not_tested_hold_no_tests() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut entries = Vec::new();
    for package in ["crds", "inference-server", "operator", "router", "worker"] {
        let manifest = fs::read_to_string(root.join(package).join("Cargo.toml")).unwrap();
        for program in manifest.split("[[bin]]").skip(1).filter(|program| program.contains("test = false")) {
            let path = program.lines().find_map(|line| line.strip_prefix("path = \"")?.strip_suffix('"')).unwrap();
            let text = fs::read_to_string(root.join(package).join(path)).unwrap();
            // A module would be a file that nobody looks into here.
            let has_tests = text.contains("#[test]") || text.contains("#[cfg(test)]") || text.contains("\nmod ");
            assert!(
                !has_tests,
                "{package}/{path} may hold tests, which `test = false` in {package}/Cargo.toml keeps from being run"
            );
            entries.push(path.to_owned());
        }
    }
    assert_eq!(entries.len(), 5, "{entries:?}");
}
