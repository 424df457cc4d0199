//! The one ONNX Runtime of the process: found, loaded and kept, with the one pool of threads that all sessions share. Telemetry off, as
//! ONNX Runtime 1.29 and later send it by default on Linux. That says so only once it has begun, so the images set
//! `ORT_DISABLE_TELEMETRY=1`, and `inference-server` begins anew with it where it is missing.

use std::{path::PathBuf, sync::OnceLock};

use ort::{
    environment::{Environment, GlobalThreadPoolOptions},
    logging::LogLevel,
};

static ENVIRONMENT: OnceLock<Result<Environment, MissingRuntime>> = OnceLock::new();

/// ONNX Runtime cannot be used.
#[derive(Clone, Debug, thiserror::Error)]
#[error(
    "ONNX Runtime cannot be loaded from {path}: {reason}; get it with `make onnxruntime` or name libonnxruntime.so in ORT_DYLIB_PATH"
)]
pub struct MissingRuntime {
    path: String,
    reason: String,
}

/// Where the library is looked for: `ORT_DYLIB_PATH`, else the images' place, else the cache that `make onnxruntime` fills.
pub fn library_path() -> PathBuf {
    if let Some(named) = std::env::var_os("ORT_DYLIB_PATH").filter(|path| !path.is_empty()) {
        return PathBuf::from(named);
    }
    let in_image = PathBuf::from("/usr/lib/libonnxruntime.so");
    if in_image.exists() {
        return in_image;
    }
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache"));
    cache.join("millrace/lib/libonnxruntime.so")
}

/// Threads of the process' one pool, the thread that calls counted: as many as processors may be used.
pub fn pool_threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The environment of the process, made at the first call; what went wrong then is told again at every later one.
pub(crate) fn environment() -> Result<&'static Environment, MissingRuntime> {
    ENVIRONMENT.get_or_init(start).as_ref().map_err(Clone::clone)
}

fn start() -> Result<Environment, MissingRuntime> {
    let path = library_path();
    let missing = |reason: String| MissingRuntime { path: path.display().to_string(), reason };
    if !path.exists() {
        return Err(missing("there is no such file".to_owned()));
    }
    let builder = ort::environment::init_from(&path).map_err(|e| missing(e.to_string()))?;
    let environment = builder
        .with_name("millrace")
        .with_telemetry(false)
        .with_global_thread_pool(pool().map_err(|e| missing(e.to_string()))?)
        .build()
        .map_err(|e| missing(e.to_string()))?;
    // Every failure is returned to the caller; a line a failed request on stderr would only fill the disk.
    environment.set_log_level(LogLevel::Fatal);
    Ok(environment)
}

/// Threads that wait do not spin: the processors belong to whoever has work, which is often another model or a socket.
fn pool() -> ort::Result<GlobalThreadPoolOptions> {
    GlobalThreadPoolOptions::default()
        .with_intra_threads(pool_threads())?
        .with_inter_threads(1)?
        .with_spin_control(false)
}
