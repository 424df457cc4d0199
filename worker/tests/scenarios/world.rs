//! A store in a temporary folder, and what the scenarios put there.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use millrace_contract::{
    dataset::{Field, FieldRole, FieldType, FileFormat, FilesSource, SplitSpec},
    worker::{DatasetRef, PrepareTask, PreparedDataset, TrainTask},
};
use millrace_store::{Options, Store};
use millrace_worker::{
    failure::Problem,
    prepare::{self, Settings},
};
use tempfile::TempDir;

pub struct World {
    pub folder: TempDir,
    pub store: Store,
}

impl World {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::create_dir(folder.path().join("store")).expect("a new folder");
        let store = Store::new(&uri(&folder.path().join("store")), Options::default()).expect("a file URI");
        Self { folder, store }
    }

    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.folder.path().join(path);
        std::fs::create_dir_all(path.parent().expect("beneath the folder")).expect("a folder");
        std::fs::write(path, content).expect("a file");
    }

    pub fn task(&self, source: &str) -> PrepareTask {
        let format = if source.ends_with("parquet") { FileFormat::Parquet } else { FileFormat::Csv };
        PrepareTask {
            run: "r1".to_owned(),
            dataset: "tx".to_owned(),
            source: FilesSource { uri: uri(&self.folder.path().join(source)), format, csv: None, credentials: None },
            transform_sql: None,
            schema: None,
            expectations: Vec::new(),
            split: SplitSpec::default(),
            current: None,
        }
    }

    pub async fn prepare(&self, task: &PrepareTask) -> Result<PreparedDataset, Problem> {
        let source = self.store.open(&task.source.uri).expect("a file URI");
        prepare::run(task, &source, &self.store, Settings::for_memory(None)).await
    }

    pub async fn prepare_csv(&self, name: &str, content: &str) -> Result<PreparedDataset, Problem> {
        self.write(&format!("{name}/data.csv"), content);
        self.prepare(&self.task(name)).await
    }

    pub fn stored_files(&self) -> Vec<String> {
        let root = self.folder.path().join("store");
        let mut found = Vec::new();
        let mut folders = vec![root.clone()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).expect("a folder") {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    found.push(path.strip_prefix(&root).expect("beneath").to_string_lossy().into_owned());
                }
            }
        }
        found.sort();
        found
    }
}

pub fn uri(path: &Path) -> String {
    format!("file://{}", path.display())
}

/// A column that may not be missing.
pub fn field(name: &str, data_type: FieldType, role: FieldRole) -> Field {
    Field { name: name.to_owned(), data_type, nullable: false, role }
}

/// What the operator hands on of a prepared version.
pub fn dataset_ref(prepared: &PreparedDataset) -> DatasetRef {
    DatasetRef {
        uri: prepared.uri.clone().expect("accepted"),
        content_digest: prepared.content_digest.clone(),
        manifest_digest: prepared.manifest_digest.clone().expect("accepted"),
    }
}

impl World {
    /// A path in the store.
    pub fn stored(&self, path: &str) -> PathBuf {
        self.folder.path().join("store").join(path)
    }

    /// Training on this version, with a checkpoint every second.
    pub fn train_task(&self, prepared: &PreparedDataset) -> TrainTask {
        TrainTask {
            run: "uid-1".to_owned(),
            model: "fraud".to_owned(),
            dataset: dataset_ref(prepared),
            hyperparameters: BTreeMap::from([("depth".to_owned(), 6.into())]),
            checkpoint_interval_seconds: Some(1),
            checkpoint_keep: Some(1),
        }
    }
}
