//! What stands beside the hot path, put together: the response cache and the payload log as a model's door meets them ([`Aside`]), spans,
//! lines and the bound on requests as the fronts do. What is not configured costs a look at an option.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use millrace_contract::{server::ServerConfig, sketch::PayloadLogReport};
use millrace_engine::{Data, NamedTensor, Tensor};

use crate::{
    cache::{self, ModelCache, ResponseCache},
    errors::{Reason, Refusal},
    limits::{Budget, Limits},
    load::allowed_networks,
    metrics::{Metrics, ModelMetrics},
    payload_log::{Draft, PayloadLog, Source},
    request::Sketched,
    runtime::{Observer, Ran, Serving},
    sketches::NO_WORKER,
    status::Trouble,
    telemetry::Telemetry,
};

/// The outputs of a model, as a request is answered with them.
type Outputs = Arc<Vec<NamedTensor>>;

/// Of the process.
#[derive(Debug)]
pub struct Beside {
    /// What a client may ask.
    pub limits: Arc<Limits>,
    /// Spans and lines.
    pub telemetry: Arc<Telemetry>,
    /// What requests and answers may hold together.
    pub budget: Arc<Budget>,
    cache: Option<Arc<ResponseCache>>,
    payload_log: Option<Arc<PayloadLog>>,
    requests: AtomicUsize,
}

/// One of the requests that may be answered at the same time; not any more when dropped.
#[derive(Debug)]
pub struct Counted<'a>(&'a AtomicUsize);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Beside {
    /// Starts what is configured, on the runtime of the caller.
    ///
    /// # Errors
    /// What cannot be as it is configured. That a sink or a collector does not answer is no error.
    pub fn start(
        config: &ServerConfig,
        limits: Limits,
        boot_id: &str,
        metrics: &Arc<Metrics>,
    ) -> Result<Arc<Self>, Trouble> {
        let invalid = |error: &dyn fmt::Display| Trouble::new("InvalidConfig", error);
        let allowed = allowed_networks(config);
        let log = |log| PayloadLog::start(log, &allowed, boot_id, Arc::clone(metrics));
        let telemetry = Telemetry::start(config.traces.as_ref(), config.access_log.as_ref(), metrics);
        Ok(Arc::new(Self {
            budget: Budget::new(limits.in_flight_bytes),
            limits: Arc::new(limits),
            telemetry: Arc::new(telemetry.map_err(|error| invalid(&error))?),
            cache: config.response_cache.as_ref().map(ResponseCache::new),
            payload_log: config.payload_log.as_ref().map(log).transpose().map_err(|error| invalid(&error))?,
            requests: AtomicUsize::new(0),
        }))
    }

    /// Nothing but limits.
    pub fn none() -> Arc<Self> {
        Arc::new(Self {
            limits: Arc::default(),
            budget: Budget::new(Limits::default().in_flight_bytes),
            telemetry: Arc::new(Telemetry::off()),
            cache: None,
            payload_log: None,
            requests: AtomicUsize::new(0),
        })
    }

    /// Counts an inference request while it is answered, if there may be one more.
    ///
    /// # Errors
    /// [`Reason::QueueFull`].
    pub fn request(&self) -> Result<Counted<'_>, Refusal> {
        let before = self.requests.fetch_add(1, Ordering::Relaxed);
        let counted = Counted(&self.requests);
        if before < self.limits.requests {
            return Ok(counted);
        }
        let message =
            format!("the server already answers {} requests, its limit; try again later", self.limits.requests);
        Err(Refusal::new(Reason::QueueFull, message))
    }

    /// Puts cache and log at the door of a model, before anybody asks it. `fingerprint` tells its files from later ones at the same place.
    pub fn attend(&self, serving: &Serving, fingerprint: &str, observers: &[Arc<dyn Observer>]) {
        if self.cache.is_none() && self.payload_log.is_none() {
            return;
        }
        let (name, version) = (serving.name.as_ref(), serving.version.as_deref());
        let source = Source {
            model: name.to_owned(),
            version: version.unwrap_or_default().to_owned(),
            digest: serving.digest.clone(),
        };
        let aside = Aside {
            cache: self.cache.as_ref().map(|cache| cache.of(name, version, &serving.digest, fingerprint)),
            log: self.payload_log.clone(),
            source: Arc::new(source),
            observers: observers.into(),
            metrics: Arc::clone(&serving.metrics),
        };
        // Only the first is kept, and there is only one.
        _ = serving.door.aside.set(aside);
    }

    /// How the payload log fares; nothing where there is none.
    pub fn payload_log(&self) -> Option<PayloadLogReport> {
        self.payload_log.as_ref().map(|log| log.report())
    }

    /// Writes and sends what waits, for at most `patience`. After the last request was answered.
    pub async fn stop(&self, patience: Duration) {
        let log = async {
            if let Some(log) = &self.payload_log {
                log.stop(patience).await;
            }
        };
        tokio::join!(log, Arc::clone(&self.telemetry).stop(patience));
    }
}

/// Of one model.
#[derive(Debug)]
pub struct Aside {
    cache: Option<ModelCache>,
    log: Option<Arc<PayloadLog>>,
    source: Arc<Source>,
    observers: Arc<[Arc<dyn Observer>]>,
    metrics: Arc<ModelMetrics>,
}

/// What is to be done once a request has its answer.
#[derive(Debug)]
pub struct Pending {
    place: Option<cache::Place>,
    draft: Option<Draft>,
}

impl Aside {
    /// Looks at the inputs of a request as the model takes them.
    ///
    /// # Errors
    /// What is pending, when the answer is not known and the model must be run.
    pub fn before(
        &self,
        id: Option<&str>,
        inputs: &[NamedTensor],
        sketched: Sketched,
        now: Instant,
    ) -> Result<Outputs, Pending> {
        let draft = self.log.as_ref().and_then(|log| log.draft(id, inputs));
        let Some(cache) = &self.cache else { return Err(Pending { place: None, draft }) };
        let found = cache.find(inputs);
        self.metrics.looked_up(found.is_ok());
        match found {
            Err(place) => Err(Pending { place, draft }),
            Ok(outputs) => {
                let rows = [inputs.first().map_or(1, |input| input.tensor.rows())];
                let answers = std::slice::from_ref(&outputs);
                for observer in &*self.observers {
                    observer.ran(&Ran { worker: NO_WORKER, inputs, rows: &rows, sketched: &[sketched], answers });
                }
                self.after(Pending { place: None, draft }, &outputs, now);
                Ok(outputs)
            }
        }
    }

    /// The request has its answer.
    pub fn after(&self, pending: Pending, outputs: &Outputs, now: Instant) {
        let took = now.elapsed();
        let Pending { place, draft } = pending;
        if place.is_none() && draft.is_none() {
            return;
        }
        let outputs = owned(outputs);
        if let (Some(cache), Some(place)) = (&self.cache, place) {
            cache.keep(place, &outputs);
        }
        if let (Some(log), Some(draft)) = (&self.log, draft) {
            log.answered(draft, &self.source, &outputs, took);
        }
    }
}

/// Outputs that may be kept for as long as somebody likes. What is lent is copied: it would keep the memory of a session that was unloaded.
fn owned(outputs: &Outputs) -> Outputs {
    if !outputs.iter().any(|output| matches!(output.tensor.data, Data::Lent(_))) {
        return Arc::clone(outputs);
    }
    let own = |NamedTensor { name, tensor: Tensor { shape, data } }: &NamedTensor| NamedTensor {
        name: name.clone(),
        tensor: Tensor { shape: shape.clone(), data: data.owned() },
    };
    Arc::new(outputs.iter().map(own).collect())
}

#[cfg(test)]
mod tests {
    use millrace_engine::{LoadOptions, Model};

    use super::*;

    #[test]
    fn what_is_kept_is_no_memory_of_a_session() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../engine/tests/models/regressor.onnx");
        let mut model = Model::load(&std::fs::read(path).unwrap(), None, LoadOptions::default()).unwrap();
        let tensor = Tensor { shape: vec![1 << 16, 2], data: Data::Fp32(vec![0.5; 2 << 16]) };
        let lent = Arc::new(model.run_lending(&[NamedTensor { name: "X".into(), tensor }]).unwrap());
        assert!(matches!(lent[0].tensor.data, Data::Lent(_)));
        let kept = owned(&lent);
        assert!(matches!(kept[0].tensor.data, Data::Fp32(_)) && kept == lent);
        assert!(Arc::ptr_eq(&owned(&kept), &kept), "vectors are not copied");
    }

    #[test]
    fn no_more_requests_are_answered_at_the_same_time_than_may_be() {
        let beside = Beside {
            limits: Arc::new(Limits { requests: 2, ..Limits::default() }),
            budget: Budget::new(1),
            telemetry: Arc::new(Telemetry::off()),
            cache: None,
            payload_log: None,
            requests: AtomicUsize::new(0),
        };
        let (first, second) = (beside.request().unwrap(), beside.request().unwrap());
        let refused = beside.request().unwrap_err();
        assert_eq!(refused.reason, Reason::QueueFull);
        assert!(refused.message.contains("already answers 2 requests"), "{refused}");
        drop(first);
        drop(beside.request().unwrap());
        drop(second);
        assert_eq!(beside.requests.load(Ordering::Relaxed), 0);
    }
}
