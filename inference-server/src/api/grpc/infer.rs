//! The way of one inference: its model is found and run in the time that its client gives; it is counted, and told.

use std::time::{Duration, Instant};

use prost::Message;
use tonic::{Code, Status, metadata::MetadataMap};

use super::{Service, status, unary::PREFIX};
use crate::{
    api::{
        contents,
        http::{Api, sketched},
        pb,
    },
    errors::{Reason, Refusal},
    limits::Flow,
    request::{Answer, Options, Sketched, Wanted},
    runtime::Serving,
    telemetry::{Begun, Ended, Protocol},
};

const TIMEOUT_HEADER: &str = "grpc-timeout";

/// What the metadata of a call says of each of its messages.
#[derive(Clone, Copy, Debug)]
pub(super) struct Said {
    pub(super) timeout: Option<Duration>,
    pub(super) sketched: Sketched,
}

impl Said {
    /// Of a call with one message.
    pub(super) fn of_call(metadata: &MetadataMap) -> Self {
        Self { timeout: timeout(metadata), ..Self::of_stream(metadata) }
    }

    /// Of a stream, which goes to one revision with all its messages; its time is not theirs.
    pub(super) fn of_stream(metadata: &MetadataMap) -> Self {
        Self { timeout: None, sketched: sketched(metadata.as_ref()) }
    }
}

/// The time that the client gives, from its header: up to eight digits and a unit.
fn timeout(metadata: &MetadataMap) -> Option<Duration> {
    let text = metadata.get(TIMEOUT_HEADER)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let value: u64 = digits.parse().ok().filter(|_| digits.len() <= 8)?;
    match unit {
        "H" => Some(Duration::from_secs(value * 3600)),
        "M" => Some(Duration::from_secs(value * 60)),
        "S" => Some(Duration::from_secs(value)),
        "m" => Some(Duration::from_millis(value)),
        "u" => Some(Duration::from_micros(value)),
        "n" => Some(Duration::from_nanos(value)),
        _ => None,
    }
}

/// What an answer is made into.
pub(super) trait Form: Sized + Send {
    /// The outputs that were asked for.
    ///
    /// # Errors
    /// [`Reason::InvalidTensor`], [`Reason::Unsupported`].
    fn of(answer: &Answer, wanted: &[Wanted], options: &Options) -> Result<Self, Refusal>;

    /// Bytes of its message.
    fn bytes(&self) -> usize;
}

impl Form for pb::ModelInferResponse {
    fn of(answer: &Answer, wanted: &[Wanted], options: &Options) -> Result<Self, Refusal> {
        contents::write(answer, wanted, options)
    }

    fn bytes(&self) -> usize {
        self.encoded_len()
    }
}

impl Service {
    /// Answers a call of one message, of which `metadata` says the rest.
    pub(super) async fn call<F: Form>(
        &self,
        message: pb::ModelInferRequest,
        metadata: MetadataMap,
        flow: Option<&Flow>,
    ) -> Result<F, Status> {
        let said = Said::of_call(&metadata);
        let begun = self.api.beside.telemetry.begin(metadata.as_ref());
        // It would be kept until the answer is there, and with it what the connection has read.
        drop(metadata);
        self.infer(message, said, begun, flow).await
    }

    /// Answers a request and counts it.
    pub(super) async fn infer<F: Form>(
        &self,
        message: pb::ModelInferRequest,
        said: Said,
        begun: Option<Begun>,
        flow: Option<&Flow>,
    ) -> Result<F, Status> {
        let started = Instant::now();
        let told = begun.map(|begun| Told::new(begun, &message));
        let answered = self.answer::<F>(message, said, started, flow).await;
        if let Some(told) = told {
            told.end(&self.api, started.elapsed(), &answered);
        }
        answered.map_err(|refusal| status(&refusal))
    }

    /// The answer, counted.
    async fn answer<F: Form>(
        &self,
        message: pb::ModelInferRequest,
        said: Said,
        started: Instant,
        flow: Option<&Flow>,
    ) -> Result<F, Refusal> {
        let without_model = |refusal: &Refusal| self.api.metrics.refused(refusal);
        let _counted = self.api.beside.request().inspect_err(without_model)?;
        let serving = self.find(&message.model_name, &message.model_version).inspect_err(without_model)?;
        let answered = match said.timeout {
            None => self.run::<F>(&serving, message, said, started, flow).await,
            Some(limit) => {
                let late = || {
                    let message =
                        format!("the request took longer than the {} ms that its client gave it", limit.as_millis());
                    Refusal::new(Reason::QueueTimeout, message)
                };
                tokio::time::timeout(limit, self.run::<F>(&serving, message, said, started, flow))
                    .await
                    .unwrap_or_else(|_| Err(late()))
            }
        };
        serving.metrics.ended(&answered, started.elapsed());
        answered
    }

    async fn run<F: Form>(
        &self,
        serving: &Serving,
        message: pb::ModelInferRequest,
        said: Said,
        now: Instant,
        flow: Option<&Flow>,
    ) -> Result<F, Refusal> {
        let mut infer = contents::read(message, &self.limits)?;
        infer.options.timeout = match (infer.options.timeout, said.timeout) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        infer.options.sketched = said.sketched;
        let (wanted, options) = (infer.wanted.clone(), infer.options);
        let answer = serving.door.infer(infer, now).await?;
        let ran = Instant::now();
        let written = F::of(&answer, &wanted, &options)?;
        if let Some(flow) = flow {
            let made = flow.made(PREFIX + written.bytes());
            made.map_err(|full| Refusal::new(Reason::MemoryFull, full.to_string()))?;
        }
        serving.metrics.responded(ran.elapsed());
        Ok(written)
    }
}

/// What will be told of a request, kept from its message.
struct Told {
    begun: Begun,
    model: String,
    version: String,
    id: String,
    request_bytes: usize,
}

impl Told {
    fn new(begun: Begun, message: &pb::ModelInferRequest) -> Self {
        Self {
            begun,
            model: message.model_name.clone(),
            version: message.model_version.clone(),
            id: message.id.clone(),
            request_bytes: message.encoded_len(),
        }
    }

    fn end(self, api: &Api, duration: Duration, answered: &Result<impl Form, Refusal>) {
        let (code, outcome, response_bytes) = match answered {
            Ok(response) => (Code::Ok, "ok", response.bytes()),
            Err(refusal) => (refusal.reason.facts().grpc, refusal.reason.facts().word, 0),
        };
        let ended = Ended {
            protocol: Protocol::Grpc,
            model: &self.model,
            version: &self.version,
            id: Some(self.id.as_str()).filter(|id| !id.is_empty()),
            status: code as u16,
            outcome,
            duration,
            request_bytes: self.request_bytes,
            response_bytes,
        };
        api.beside.telemetry.end(self.begun, &ended);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_a_client_gives_is_read_in_every_unit() {
        for (text, expected) in [
            ("2H", Some(Duration::from_secs(7200))),
            ("3M", Some(Duration::from_secs(180))),
            ("4S", Some(Duration::from_secs(4))),
            ("5m", Some(Duration::from_millis(5))),
            ("6u", Some(Duration::from_micros(6))),
            ("99999999n", Some(Duration::from_nanos(99_999_999))),
            ("999999999n", None),
            ("5", None),
            ("m", None),
            ("", None),
            ("-5m", None),
            ("5s", None),
        ] {
            let mut metadata = MetadataMap::new();
            metadata.insert(TIMEOUT_HEADER, text.parse().unwrap());
            assert_eq!(timeout(&metadata), expected, "{text:?}");
        }
    }
}
