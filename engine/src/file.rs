//! A model file that has been looked into: its digest, what it may need besides itself, and the sessions that are opened from it.

use std::{
    borrow::Cow,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use millrace_contract::{
    Digest,
    placement::{Device, Placement},
};
use ort::session::{Session, builder::SessionBuilder};

use crate::{
    LoadError, Model,
    binding::Memory,
    device,
    external::{self, Files},
    inspect::{self, Weight, ZipMap},
    model::Placed,
    runtime,
    weights::Shared,
};

/// How one session is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadOptions {
    /// Threads that may work on one run. 1 runs on the caller's thread only; more share the one pool of the process, which has as many
    /// threads as there are processors, however many models there are.
    pub intra_op_threads: usize,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self { intra_op_threads: 1 }
    }
}

/// What a file may be and need. The default: one self-contained file of standard operators, on the CPU, in one session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Where it runs.
    pub placement: Placement,
    /// The folder beneath which it may keep tensors in other files; without it, it may not.
    pub folder: Option<PathBuf>,
    /// Libraries of operators that may be loaded, by the administrator's word, never the model's. They run with this process' rights.
    pub operator_libraries: Vec<PathBuf>,
    /// How many sessions will be opened, as far as that is known before. From 3 on they share the weights, which costs the memory of two: the file's and the packed ones.
    pub sessions: usize,
}

/// A file that was checked, ready to be opened any number of times.
#[derive(Debug)]
pub struct ModelFile<'a> {
    bytes: Cow<'a, [u8]>,
    digest: Digest,
    settings: Settings,
    zip_maps: Vec<ZipMap>,
    fixed: bool,
    files: Files,
    weights: Vec<Weight<'a>>,
    shared: OnceLock<Option<Shared>>,
    opened: AtomicUsize,
}

/// Largest tensor that is computed while a model is loaded, bytes: larger ones are computed when they are needed.
const MAX_FOLDED_BYTES: &str = "67108864";

impl<'a> ModelFile<'a> {
    /// Checks a model's bytes; with `expected`, only if they have that digest.
    ///
    /// # Errors
    /// [`LoadError`]: the digest differs, the file is no whole, self-consistent ONNX model, or it needs what `settings` do not allow.
    pub fn check(bytes: &'a [u8], expected: Option<&Digest>, settings: Settings) -> Result<Self, LoadError> {
        let digest = Digest::of(bytes);
        if let Some(expected) = expected.filter(|expected| **expected != digest) {
            return Err(LoadError::DigestMismatch { expected: expected.clone(), found: digest });
        }
        let outline = inspect::outline(bytes)?;
        if let Some((domain, operator)) = outline.custom.filter(|_| settings.operator_libraries.is_empty()) {
            return Err(LoadError::CustomOperator { operator, domain });
        }
        let files = external::read(&outline.external, settings.folder.as_deref())?;
        let bytes = if outline.zip_maps.is_empty() {
            Cow::Borrowed(bytes)
        } else {
            Cow::Owned(inspect::without_zip_maps(bytes, &outline.zip_maps)?)
        };
        Ok(Self {
            bytes,
            digest,
            settings,
            zip_maps: outline.zip_maps,
            fixed: outline.fixed,
            files,
            weights: outline.weights,
            shared: OnceLock::new(),
            opened: AtomicUsize::new(0),
        })
    }

    /// Digest of the bytes.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Opens one session.
    ///
    /// # Errors
    /// [`LoadError`]: ONNX Runtime, the device or a library is missing, or what ONNX Runtime says of the model.
    pub fn open(&self, options: LoadOptions) -> Result<Model, LoadError> {
        let placement = &self.settings.placement;
        let (session, device) = match self.session(options, placement) {
            Ok(session) => (session, placement.device),
            Err(why) if device::may_fall_back(placement, &why) => {
                tracing::warn!(device = %placement.device, reason = why.reason(), "the model runs on the CPU instead: {why}");
                (self.session(options, &Placement::default())?, Device::Cpu)
            }
            Err(why) => return Err(why),
        };
        let graphs = self.settings.placement.graphs && self.fixed;
        let memory = Memory::of(device, self.settings.placement.device_id);
        let placed = Placed { device, memory, graphs };
        Model::of_session(session, self.digest.clone(), &self.zip_maps, placed)
    }

    /// What sessions share, if there are so many of them that it pays: it costs the memory of two.
    fn shared(&self, sessions: usize) -> Option<&Shared> {
        if sessions <= 2 {
            return None;
        }
        self.shared.get_or_init(|| Shared::of(&self.weights)).as_ref()
    }

    pub(crate) fn session(&self, options: LoadOptions, placement: &Placement) -> Result<Session, LoadError> {
        let builder = device::apply(placement, builder(options)?, self.fixed)?;
        let opened = self.opened.fetch_add(1, Ordering::Relaxed) + 1;
        let mut builder = match self.shared(opened.max(self.settings.sessions)) {
            Some(shared) => shared.give(builder)?,
            None => builder,
        };
        for (name, bytes) in &self.files {
            builder = builder.with_external_initializer_file_in_memory(name, bytes.clone()).map_err(|e| invalid(&e))?;
        }
        for library in &self.settings.operator_libraries {
            builder = builder.with_operator_library(library).map_err(|e| invalid(&e))?;
        }
        // The binding to ONNX Runtime panics at types it does not know; a file must not be able to end the process.
        match catch_unwind(AssertUnwindSafe(|| builder.commit_from_memory(&self.bytes))) {
            Ok(Ok(session)) => Ok(session),
            Ok(Err(e)) => Err(device::blame(placement, e.to_string())),
            Err(_) => Err(LoadError::Invalid("it has inputs or outputs of an unknown type".to_owned())),
        }
    }
}

fn invalid<E: std::fmt::Display>(error: &E) -> LoadError {
    LoadError::Invalid(error.to_string())
}

fn builder(options: LoadOptions) -> Result<SessionBuilder, LoadError> {
    let mut builder = Session::builder(runtime::environment()?).map_err(|e| invalid(&e))?;
    if options.intra_op_threads <= 1 {
        builder = builder.with_independent_thread_pool().map_err(|e| invalid(&e))?;
        builder = builder.with_intra_threads(1).map_err(|e| invalid(&e))?;
    }
    for (key, value) in [
        ("session.intra_op.allow_spinning", "0"),
        ("session.inter_op.allow_spinning", "0"),
        // What was checked is ONNX; ONNX Runtime would recognise its own format by four bytes.
        ("session.load_model_format", "ONNX"),
        ("optimization.constant_folding_max_output_size_in_bytes", MAX_FOLDED_BYTES),
    ] {
        builder = builder.with_config_entry(key, value).map_err(|e| invalid(&e))?;
    }
    Ok(builder)
}
