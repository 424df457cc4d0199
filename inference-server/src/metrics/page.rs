//! The names, labels and help of all metrics, written when they are asked for. Beside our own names stand those of Triton, so that its
//! dashboards and autoscalers work unchanged; Triton's counters end without `_total`, which this format allows only to metrics of an
//! unknown type.

use std::{
    fmt,
    sync::{Arc, PoisonError, atomic::Ordering::Relaxed},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, NoLabelSet},
    metrics::{MetricType, info::Info},
    registry::Registry,
};

use super::{
    Closed, Metrics, ModelMetrics, Totals, Written,
    cells::{Durations, FIRST_NANOSECONDS, Histogram, Sizes},
    model::Cells,
};
use crate::{errors::Reason, rows::Sharing};

/// Prints the metrics it holds.
#[derive(Debug)]
pub struct Page(pub Arc<Metrics>);

type Labels<'a> = [(&'static str, &'a str)];

/// What is loaded, as labels of an info metric.
pub fn register_model(registry: &mut Registry, model: &str, revision: &str, digest: &str) {
    let labels = vec![("model", model.to_owned()), ("revision", revision.to_owned()), ("digest", digest.to_owned())];
    let help = "The model that this server was configured with";
    registry.sub_registry_with_prefix("millrace_server").register("model", help, Info::new(labels));
}

/// Name, help, and what to read of a model, in nanoseconds.
type DurationOf = (&'static str, &'static str, fn(&ModelMetrics) -> Histogram);

/// Name, help, and what to read of a model.
type SizeOf = (&'static str, &'static str, fn(&Cells) -> &Sizes);

const DURATIONS: [DurationOf; 5] = [
    (
        "millrace_server_request_duration_seconds",
        "From the request's head to its answer, answered requests only",
        |model| model.durations(|cells| &cells.request),
    ),
    ("millrace_server_queue_duration_seconds", "From admission to a place in a batch", |model| {
        model.durations(|cells| &cells.queue)
    }),
    ("millrace_server_batch_duration_seconds", "Putting the tensors of a batch together", |model| {
        model.durations(|cells| &cells.batch)
    }),
    ("millrace_server_compute_duration_seconds", "One run of the model", |model| {
        model.durations(|cells| &cells.compute)
    }),
    ("millrace_server_response_duration_seconds", "From the end of the run to the answer made", |model| {
        model.durations(|cells| &cells.response)
    }),
];

/// Triton's name, its help, and the value.
type Alias = (&'static str, &'static str, fn(&Totals) -> u64);

const ALIASES: [Alias; 11] = [
    ("nv_inference_request_success", "Requests answered", |totals| totals.success),
    ("nv_inference_request_failure", "Requests turned down", |totals| totals.failure),
    ("nv_inference_count", "Rows answered by a run", |totals| totals.inferences),
    ("nv_inference_exec_count", "Runs of the model, also those that failed", |totals| totals.executions),
    ("nv_inference_request_duration_us", "Request durations, added up", |totals| totals.request_nanoseconds / 1000),
    ("nv_inference_queue_duration_us", "Queue durations, added up", |totals| totals.queue_nanoseconds / 1000),
    ("nv_inference_compute_input_duration_us", "Batches put together, added up", |totals| {
        totals.input_nanoseconds / 1000
    }),
    ("nv_inference_compute_infer_duration_us", "Runs, added up", |totals| totals.compute_nanoseconds / 1000),
    ("nv_inference_compute_output_duration_us", "Answers made, added up", |totals| totals.output_nanoseconds / 1000),
    ("nv_cache_num_hits_per_model", "Answers from the response cache", |totals| totals.cache_hits),
    ("nv_cache_num_misses_per_model", "Requests not found in the response cache", |totals| totals.cache_misses),
];

impl ModelMetrics {
    fn labels(&self) -> [(&'static str, &str); 2] {
        [("model", &self.model), ("version", &self.version)]
    }

    fn durations(&self, one: fn(&Cells) -> &Durations) -> Histogram {
        Histogram::of(self.cells.iter().map(one))
    }

    fn sizes(&self, one: fn(&Cells) -> &Sizes) -> Histogram {
        Histogram::of(self.cells.iter().map(one))
    }

    fn count(&self, one: impl Fn(&Cells) -> u64) -> u64 {
        self.cells.iter().map(one).sum()
    }

    fn outcomes(&self) -> Vec<(&'static str, u64)> {
        let refused = Reason::ALL
            .into_iter()
            .map(|reason| (reason.facts().word, self.count(|cells| cells.refused[reason as usize].load(Relaxed))));
        [("ok", self.count(|cells| cells.ok.load(Relaxed)))].into_iter().chain(refused).collect()
    }
}

impl Collector for Page {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let models = self.0.models.lock().unwrap_or_else(PoisonError::into_inner).clone();
        requests(&mut encoder, &models, &self.0.without_model)?;
        histograms(&mut encoder, &models)?;
        queue_and_cache(&mut encoder, &models)?;
        triton(&mut encoder, &models)?;
        process(&mut encoder, &self.0)
    }
}

fn requests(encoder: &mut DescriptorEncoder, models: &[Arc<ModelMetrics>], without: &ModelMetrics) -> fmt::Result {
    let help = "Inference requests by outcome: ok, or why they were turned down; no model where none was reached";
    let mut family = encoder.encode_descriptor("millrace_server_requests", help, None, MetricType::Counter)?;
    // A series that exists from the start has a rate from the start.
    for model in models.iter().map(AsRef::as_ref).chain([without]) {
        for (outcome, count) in model.outcomes() {
            let [name, version] = model.labels();
            let labels: &Labels = &[("outcome", outcome), name, version];
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
        }
    }
    Ok(())
}

fn histograms(encoder: &mut DescriptorEncoder, models: &[Arc<ModelMetrics>]) -> fmt::Result {
    for (name, help, read) in DURATIONS {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for model in models {
            let histogram = read(model);
            let bounds = histogram.bounds(FIRST_NANOSECONDS as f64 / 1e9);
            let labels: &Labels = &model.labels();
            family.encode_family(&labels)?.encode_histogram::<NoLabelSet>(
                histogram.sum as f64 / 1e9,
                histogram.count(),
                &bounds,
                None,
            )?;
        }
    }
    let sizes: [SizeOf; 2] = [
        ("millrace_server_batch_rows", "Rows in one run", |cells| &cells.rows),
        ("millrace_server_batch_requests", "Requests in one run", |cells| &cells.requests),
    ];
    for (name, help, read) in sizes {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for model in models {
            let histogram = model.sizes(read);
            let labels: &Labels = &model.labels();
            family.encode_family(&labels)?.encode_histogram::<NoLabelSet>(
                histogram.sum as f64,
                histogram.count(),
                &histogram.bounds(1.0),
                None,
            )?;
        }
    }
    Ok(())
}

fn queue_and_cache(encoder: &mut DescriptorEncoder, models: &[Arc<ModelMetrics>]) -> fmt::Result {
    let mut family =
        encoder.encode_descriptor("millrace_server_queue_length", "Requests waiting now", None, MetricType::Gauge)?;
    for model in models {
        let labels: &Labels = &model.labels();
        family.encode_family(&labels)?.encode_gauge(&model.waiting.load(Relaxed))?;
    }
    let help = "1 at whether requests share runs of the model, and if not, why";
    let mut family = encoder.encode_descriptor("millrace_server_batching", help, None, MetricType::Gauge)?;
    for model in models {
        let found = model.sharing.load(Relaxed);
        for sharing in Sharing::ALL {
            let [name, version] = model.labels();
            let labels: &Labels = &[("state", sharing.word()), name, version];
            family.encode_family(&labels)?.encode_gauge(&i64::from(found == sharing as usize))?;
        }
    }
    let help = "Requests whose client went away before they were run";
    let mut family =
        encoder.encode_descriptor("millrace_server_cancelled_requests", help, None, MetricType::Counter)?;
    for model in models {
        let cancelled = model.count(|cells| cells.cancelled.load(Relaxed));
        let labels: &Labels = &model.labels();
        family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&cancelled, None)?;
    }
    let help = "Requests looked for in the response cache";
    let mut family = encoder.encode_descriptor("millrace_server_cache_lookups", help, None, MetricType::Counter)?;
    for model in models {
        let hits = model.count(|cells| cells.cache_hits.load(Relaxed));
        let misses = model.count(|cells| cells.cache_misses.load(Relaxed));
        for (result, count) in [("hit", hits), ("miss", misses)] {
            let [name, version] = model.labels();
            let labels: &Labels = &[("result", result), name, version];
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
        }
    }
    Ok(())
}

fn triton(encoder: &mut DescriptorEncoder, models: &[Arc<ModelMetrics>]) -> fmt::Result {
    let totals: Vec<_> = models.iter().map(|model| (model.labels(), model.totals())).collect();
    for (name, help, read) in ALIASES {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Unknown)?;
        for (labels, totals) in &totals {
            let labels: &Labels = labels;
            family.encode_family(&labels)?.encode_gauge(&read(totals))?;
        }
    }
    let name = "nv_inference_pending_request_count";
    let mut family = encoder.encode_descriptor(name, "Requests waiting now", None, MetricType::Gauge)?;
    for model in models {
        let labels: &Labels = &model.labels();
        family.encode_family(&labels)?.encode_gauge(&model.waiting.load(Relaxed))?;
    }
    Ok(())
}

fn process(encoder: &mut DescriptorEncoder, metrics: &Metrics) -> fmt::Result {
    let gauges = [
        ("millrace_server_ready", "1 while requests are welcome", &metrics.ready),
        ("millrace_server_connections", "Open connections of the traffic ports", &metrics.connections),
    ];
    for (name, help, gauge) in gauges {
        encoder.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&gauge.load(Relaxed))?;
    }
    let help = "Connections that the server closed, by the reason";
    let mut family =
        encoder.encode_descriptor("millrace_server_connections_closed", help, None, MetricType::Counter)?;
    for why in Closed::ALL {
        let labels: &Labels = &[("reason", why.word())];
        let count = metrics.closed[why as usize].load(Relaxed);
        family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
    }
    let help = "Streams of HTTP/2 that were reset, as their clients took nothing of a long answer";
    let mut family = encoder.encode_descriptor("millrace_server_streams_reset", help, None, MetricType::Counter)?;
    family.encode_counter::<NoLabelSet, _, u64>(&metrics.streams_reset.load(Relaxed), None)?;
    let logs = [
        (
            "millrace_server_payload_log_records",
            "Sampled requests by what became of their record",
            &metrics.payload_log,
        ),
        ("millrace_server_access_log_lines", "Lines of the access log by what became of them", &metrics.access_log),
    ];
    for (name, help, counts) in logs {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for outcome in Written::ALL {
            let labels: &Labels = &[("outcome", outcome.word())];
            let count = counts[outcome as usize].load(Relaxed);
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
        }
    }
    let help = "Certificate files read again, by whether they could be used";
    let mut family =
        encoder.encode_descriptor("millrace_server_certificate_reloads", help, None, MetricType::Counter)?;
    for (result, counter) in [("ok", &metrics.certificate_reloads), ("failed", &metrics.certificate_failures)] {
        let labels: &Labels = &[("result", result)];
        family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&counter.load(Relaxed), None)?;
    }
    Ok(())
}
