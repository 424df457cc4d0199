//! Inference requests and answers of REST: JSON, and behind it the tensors of the binary tensor data extension. Read in one pass, without
//! a tree in between; numbers go straight into vectors of their type. Pure.

use std::{borrow::Cow, fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use millrace_engine::{Data, Datatype, NamedTensor, Tensor};

use super::{
    binary::Growing,
    elements::{self, Trouble},
    intake::Intake,
    message::Limits,
    scan::{Cursor, Fault},
};
use crate::{
    errors::{Reason, Refusal},
    request::{Infer, Options, Wanted},
};

/// Header that says where the JSON ends and the tensors begin.
pub const BINARY_HEADER: &str = "inference-header-content-length";

/// Why a body is turned down.
enum Wrong {
    Text(Fault),
    Refused(Refusal),
}

impl From<Fault> for Wrong {
    fn from(fault: Fault) -> Self {
        Self::Text(fault)
    }
}

impl From<Refusal> for Wrong {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

fn invalid(whose: impl fmt::Display, why: impl fmt::Display) -> Wrong {
    Refusal::new(Reason::InvalidTensor, format!("{whose}: {why}")).into()
}

fn malformed(why: impl fmt::Display) -> Refusal {
    Refusal::new(Reason::InvalidRequest, format!("the body is no inference request: {why}"))
}

/// Reads the whole body of an inference request. `json_length` is the value of [`BINARY_HEADER`], if the request has it.
///
/// # Errors
/// [`Reason::InvalidRequest`], [`Reason::InvalidTensor`], [`Reason::Unsupported`], [`Reason::BodyTooLarge`].
pub fn read(body: &[u8], json_length: Option<usize>, limits: &Limits) -> Result<Infer, Refusal> {
    let mut intake = Intake::new(Ok(json_length), Some(body.len()), limits);
    intake.take(Bytes::copy_from_slice(body));
    intake.finish()
}

/// A tensor that comes behind the JSON.
#[derive(Debug)]
pub(super) struct Behind {
    /// Which of the inputs it is; there it has no elements yet.
    pub input: usize,
    /// Its bytes.
    pub size: usize,
    /// How many of them have not come.
    pub missing: usize,
    /// What has.
    pub tensor: Growing,
}

/// Reads the JSON of a request, with the tensors that come behind it in their order. Where nothing can come behind it, there are none.
///
/// # Errors
/// [`Reason::InvalidRequest`], [`Reason::InvalidTensor`], [`Reason::Unsupported`], [`Reason::BodyTooLarge`].
pub(super) fn described(text: &[u8], can_be_behind: bool, limits: &Limits) -> Result<(Infer, Vec<Behind>), Refusal> {
    if text.len() > limits.json_bytes {
        return Err(too_long(text.len(), limits));
    }
    let mut reader = Reader { limits, behind: can_be_behind.then(Vec::new) };
    match reader.request(text) {
        Ok(request) => Ok((request, reader.behind.unwrap_or_default())),
        Err(Wrong::Text(fault)) => Err(malformed(fault.describe(text))),
        Err(Wrong::Refused(refusal)) => Err(refusal),
    }
}

/// JSON of so many bytes, which is above its limit.
pub(super) fn too_long(length: usize, limits: &Limits) -> Refusal {
    let limit = limits.json_bytes;
    let message = format!("the JSON of the body has {length} bytes, the limit is {limit}; send tensors as binary");
    Refusal::new(Reason::BodyTooLarge, message)
}

struct Reader<'l> {
    limits: &'l Limits,
    /// What comes behind the JSON, if something may.
    behind: Option<Vec<Behind>>,
}

impl Reader<'_> {
    fn request(&mut self, text: &[u8]) -> Result<Infer, Wrong> {
        let mut cursor = Cursor::within(text, self.limits.json_depth);
        let (mut id, mut parameters) = (None, Parameters::default());
        let (mut inputs, mut wanted) = (None, None);
        cursor.object("an object", |cursor, name| {
            match name {
                "id" if cursor.word("null") => {}
                "id" => once(&mut id, cursor.string("a string as id")?.into_owned(), cursor)?,
                "parameters" => parameters = Parameters::read(cursor)?,
                "inputs" => once(&mut inputs, self.inputs(cursor)?, cursor)?,
                "outputs" if cursor.word("null") => {}
                "outputs" => once(&mut wanted, self.wanted(cursor)?, cursor)?,
                _ => cursor.skip()?,
            }
            Ok::<(), Wrong>(())
        })?;
        cursor.end()?;
        parameters.check("the request")?;
        let inputs = inputs.ok_or_else(|| malformed("field \"inputs\" is missing"))?;
        let options = Options {
            priority: parameters.priority.unwrap_or_default(),
            timeout: parameters.timeout,
            binary_output: parameters.binary_output.unwrap_or_default(),
            ..Options::default()
        };
        Ok(Infer { id, inputs, wanted: wanted.unwrap_or_default(), options })
    }

    fn inputs(&mut self, cursor: &mut Cursor<'_>) -> Result<Vec<NamedTensor>, Wrong> {
        let mut inputs = Vec::new();
        cursor.array("an array of inputs", |cursor| {
            if inputs.len() >= self.limits.inputs {
                return Err(malformed(format!("it has more than {} inputs", self.limits.inputs)).into());
            }
            inputs.push(self.input(cursor, inputs.len())?);
            Ok::<(), Wrong>(())
        })?;
        Ok(inputs)
    }

    fn input(&mut self, cursor: &mut Cursor<'_>, index: usize) -> Result<NamedTensor, Wrong> {
        let mut draft = Draft::default();
        cursor.object("an input as an object", |cursor, field| draft.field(cursor, field, index, self.limits))?;
        draft.finish(cursor, index, self)
    }

    fn wanted(&self, cursor: &mut Cursor<'_>) -> Result<Vec<Wanted>, Wrong> {
        let mut outputs = Vec::new();
        cursor.array("an array of outputs", |cursor| {
            if outputs.len() >= self.limits.inputs {
                return Err(malformed(format!("it has more than {} outputs", self.limits.inputs)).into());
            }
            let (mut name, mut parameters) = (None, Parameters::default());
            cursor.object("an output as an object", |cursor, field| {
                match field {
                    "name" => once(&mut name, cursor.string("a string as name")?.into_owned(), cursor)?,
                    "parameters" => parameters = Parameters::read(cursor)?,
                    _ => cursor.skip()?,
                }
                Ok::<(), Wrong>(())
            })?;
            let name = name.ok_or_else(|| malformed(format!("output {} has no field \"name\"", outputs.len())))?;
            parameters.check(format_args!("output {name:?}"))?;
            let Parameters { binary, classification, .. } = parameters;
            outputs.push(Wanted { name, binary, classification });
            Ok::<(), Wrong>(())
        })?;
        Ok(outputs)
    }
}

/// A field that may be there once.
fn once<T>(field: &mut Option<T>, value: T, cursor: &mut Cursor<'_>) -> Result<(), Fault> {
    match field.replace(value) {
        None => Ok(()),
        Some(_) => Err(cursor.fault("no field twice")),
    }
}

/// An input, as far as it has been read.
#[derive(Default)]
struct Draft<'a> {
    name: Option<Cow<'a, str>>,
    datatype: Option<Cow<'a, str>>,
    shape: Option<Vec<i64>>,
    data: Option<Given>,
    parameters: Parameters,
}

enum Given {
    Read(Data),
    /// At this offset: type or shape were not known there yet.
    Later(usize),
}

impl<'a> Draft<'a> {
    fn field(&mut self, cursor: &mut Cursor<'a>, field: &str, index: usize, limits: &Limits) -> Result<(), Wrong> {
        match field {
            "name" => once(&mut self.name, cursor.string("a string as name")?, cursor)?,
            "datatype" => once(&mut self.datatype, cursor.string("a string as datatype")?, cursor)?,
            "shape" => once(&mut self.shape, dimensions(cursor, limits)?, cursor)?,
            "parameters" => self.parameters = Parameters::read(cursor)?,
            "data" => {
                let given = match (&self.datatype, &self.shape) {
                    (Some(datatype), Some(shape)) => {
                        let whose = Whose { name: self.name.as_deref(), index };
                        Given::Read(data(cursor, datatype, shape, limits, whose)?)
                    }
                    _ => {
                        cursor.peek();
                        let at = cursor.at();
                        cursor.pass_over()?;
                        Given::Later(at)
                    }
                };
                once(&mut self.data, given, cursor)?;
            }
            _ => cursor.skip()?,
        }
        Ok(())
    }

    fn finish(self, cursor: &Cursor<'a>, index: usize, reader: &mut Reader<'_>) -> Result<NamedTensor, Wrong> {
        let Self { name, datatype, shape, data: given, parameters } = self;
        let whose = Whose { name: name.as_deref(), index };
        let missing = |field: &str| malformed(format!("{whose} has no field {field:?}"));
        let name = name.as_deref().ok_or_else(|| missing("name"))?.to_owned();
        let datatype = datatype.ok_or_else(|| missing("datatype"))?;
        let shape = shape.ok_or_else(|| missing("shape"))?;
        parameters.check(whose)?;
        let data = match (given, parameters.binary_size) {
            (Some(Given::Read(data)), None) => data,
            (Some(Given::Later(at)), None) => {
                let mut there = cursor.clone();
                there.seek(at);
                self::data(&mut there, &datatype, &shape, reader.limits, whose)?
            }
            (None, Some(size)) => {
                let datatype: Datatype = datatype.parse().map_err(|e| invalid(whose, e))?;
                let tensor = Growing::new(datatype, &shape, size, reader.limits).map_err(|why| invalid(whose, why))?;
                let Some(behind) = &mut reader.behind else {
                    let why = "parameter binary_data_size is given, header Inference-Header-Content-Length is not";
                    return Err(invalid(whose, why));
                };
                behind.push(Behind { input: index, size, missing: size, tensor });
                Data::with_capacity(datatype, 0)
            }
            (Some(_), Some(_)) => return Err(invalid(whose, "it has both data and parameter binary_data_size")),
            (None, None) => return Err(invalid(whose, "it has no data")),
        };
        Ok(NamedTensor { name, tensor: Tensor { shape, data } })
    }
}

/// The input that a message is about; written only where there is something to say.
#[derive(Clone, Copy)]
struct Whose<'a> {
    name: Option<&'a str>,
    index: usize,
}

impl fmt::Display for Whose<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name {
            Some(name) => write!(f, "input {name:?}"),
            None => write!(f, "input {}", self.index),
        }
    }
}

fn data(
    cursor: &mut Cursor<'_>,
    datatype: &str,
    shape: &[i64],
    limits: &Limits,
    whose: Whose<'_>,
) -> Result<Data, Wrong> {
    let datatype: Datatype = datatype.parse().map_err(|e| invalid(whose, e))?;
    elements::read(cursor, datatype, shape, limits).map_err(|trouble| match trouble {
        Trouble::Text(fault) => fault.into(),
        Trouble::Value(sentence) => invalid(whose, sentence),
    })
}

fn dimensions(cursor: &mut Cursor<'_>, limits: &Limits) -> Result<Vec<i64>, Wrong> {
    let mut shape = Vec::with_capacity(4);
    cursor.array("an array of dimensions", |cursor| {
        // One more than the limit is kept, so that whoever checks the shape sees that it is too long.
        if shape.len() > limits.rank {
            return cursor.skip();
        }
        cursor.peek();
        let at = cursor.at();
        let expected = "a whole number as dimension";
        shape.push(cursor.number()?.parse().map_err(|_| Fault { expected, at })?);
        Ok(())
    })?;
    Ok(shape)
}

/// The parameters that this server knows, of a request, an input or an output. Others are ignored, as the protocol says.
#[derive(Debug, Default)]
struct Parameters {
    binary_size: Option<usize>,
    binary: Option<bool>,
    binary_output: Option<bool>,
    classification: Option<u32>,
    priority: Option<u64>,
    timeout: Option<Duration>,
    /// One that would change what the request means, and that this server does not have.
    foreign: Option<&'static str>,
}

impl Parameters {
    fn read(cursor: &mut Cursor<'_>) -> Result<Self, Fault> {
        let mut known = Self::default();
        if cursor.word("null") {
            return Ok(known);
        }
        cursor.object("parameters as an object", |cursor, name| {
            match name {
                "binary_data_size" => known.binary_size = Some(whole(cursor, "a size in bytes")?),
                "binary_data" => known.binary = Some(cursor.boolean()?),
                "binary_data_output" => known.binary_output = Some(cursor.boolean()?),
                "classification" => known.classification = Some(whole(cursor, "a number of classes")?),
                "priority" => known.priority = Some(whole(cursor, "a priority")?),
                "timeout" => {
                    let micros: u64 = whole(cursor, "a timeout in microseconds")?;
                    known.timeout = (micros > 0).then(|| Duration::from_micros(micros));
                }
                "shared_memory_region" => {
                    known.foreign = Some("shared_memory_region");
                    cursor.skip()?;
                }
                _ => cursor.skip()?,
            }
            Ok(())
        })?;
        Ok(known)
    }

    /// Refuses what would change how tensors are found: to ignore that would be to answer wrongly.
    fn check(&self, whose: impl fmt::Display) -> Result<(), Refusal> {
        match self.foreign {
            None => Ok(()),
            Some(parameter) => {
                let message = format!(
                    "{whose} has parameter {parameter:?}: this server has no such extension, send tensors in the body"
                );
                Err(Refusal::new(Reason::Unsupported, message))
            }
        }
    }
}

fn whole<T: std::str::FromStr>(cursor: &mut Cursor<'_>, expected: &'static str) -> Result<T, Fault> {
    cursor.peek();
    let at = cursor.at();
    cursor.number().ok().and_then(|written| written.parse().ok()).ok_or(Fault { expected, at })
}

/// The outputs that were asked for, in that order, made into classes where that was asked; all when none was.
///
/// # Errors
/// [`Reason::InvalidTensor`] for an unknown output, [`Reason::Unsupported`] where it has no classes.
pub fn chosen<'w>(outputs: &Arc<Vec<NamedTensor>>, wanted: &'w [Wanted]) -> Result<Vec<Chosen<'w>>, Refusal> {
    if wanted.is_empty() {
        let all = (0..outputs.len()).map(|index| Chosen { tensors: Arc::clone(outputs), index, wanted: None });
        return Ok(all.collect());
    }
    let mut found = Vec::with_capacity(wanted.len());
    for asked in wanted {
        let Some(index) = outputs.iter().position(|output| output.name == asked.name) else {
            let has: Vec<&str> = outputs.iter().map(|output| output.name.as_str()).collect();
            let message = format!("output {:?} is unknown; the model has {}", asked.name, has.join(", "));
            return Err(Refusal::new(Reason::InvalidTensor, message));
        };
        found.push(match asked.classification {
            None | Some(0) => Chosen { tensors: Arc::clone(outputs), index, wanted: Some(asked) },
            Some(top) => {
                let classes = super::classify::classify(&outputs[index], top)?;
                Chosen { tensors: Arc::new(vec![classes]), index: 0, wanted: Some(asked) }
            }
        });
    }
    Ok(found)
}

/// An output that is to be written.
#[derive(Debug)]
pub struct Chosen<'w> {
    /// Where it lies.
    pub tensors: Arc<Vec<NamedTensor>>,
    /// Which of them it is.
    pub index: usize,
    /// How it was asked for.
    pub wanted: Option<&'w Wanted>,
}

impl Chosen<'_> {
    /// The tensor.
    pub fn tensor(&self) -> &NamedTensor {
        &self.tensors[self.index]
    }
}

#[cfg(test)]
#[path = "json_tests.rs"]
mod tests;
