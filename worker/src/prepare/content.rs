//! Canonical bytes of rows, the content digest over them and the split they decide. Pure; specified byte by byte in
//! `docs/decisions/0002-dataset-digests.md`, and never to be changed: digests of stored versions depend on it.

use arrow::array::RecordBatch;
use millrace_contract::{
    Digest,
    dataset::{FieldRole, FieldType, Schema, Split, SplitSpec},
};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::table::{Cell, Column, columns};

/// First bytes of what the content digest hashes: a change of the encoding must change this.
const DOMAIN: &[u8] = b"millrace-dataset-content-v1\0";
/// Splits are decided in steps of one ten-thousandth.
const BUCKETS: u64 = 10_000;
/// A sum of shares that is no further from 1 is 1: 0.06, 0.57 and 0.37 do not add up in binary.
const ROUNDING: f64 = 1e-6;

/// SHA-256 of each row of a batch, with the split each row falls into.
pub struct HashedRows {
    /// Hash of the canonical bytes, a row each.
    pub hashes: Vec<[u8; 32]>,
    /// Split of each row.
    pub splits: Vec<Split>,
}

/// Hashes the rows of one batch.
pub fn hash_rows(batch: &RecordBatch, schema: &Schema, shares: &Shares) -> HashedRows {
    let columns = columns(batch, schema);
    let id_positions: Vec<usize> =
        schema.fields.iter().enumerate().filter(|(_, f)| f.role == FieldRole::Id).map(|(i, _)| i).collect();
    let mut hashed =
        HashedRows { hashes: Vec::with_capacity(batch.num_rows()), splits: Vec::with_capacity(batch.num_rows()) };
    let mut bytes = Vec::new();
    let mut id = Vec::new();
    for row in 0..batch.num_rows() {
        bytes.clear();
        for (column, field) in columns.iter().zip(&schema.fields) {
            encode_cell(field.data_type, column.cell(row), &mut bytes);
        }
        encode_id(&columns, schema, &id_positions, row, &mut id);
        hashed.splits.push(shares.split_of(if id.is_empty() { &bytes } else { &id }));
        hashed.hashes.push(Sha256::digest(&bytes).into());
    }
    hashed
}

/// The Id cells of a row; empty when there is no Id column or no value in it, so that the whole row decides instead of all
/// rows without an Id going one way together.
fn encode_id(columns: &[Column<'_>], schema: &Schema, id_positions: &[usize], row: usize, id: &mut Vec<u8>) {
    id.clear();
    if id_positions.iter().all(|&i| columns[i].cell(row).is_missing()) {
        return;
    }
    for &i in id_positions {
        encode_cell(schema.fields[i].data_type, columns[i].cell(row), id);
    }
}

/// Appends the canonical bytes of one cell: type tag, null marker, value.
fn encode_cell(data_type: FieldType, cell: Cell<'_>, out: &mut Vec<u8>) {
    out.push(match data_type {
        FieldType::Integer => 1,
        FieldType::Number => 2,
        FieldType::Boolean => 3,
        FieldType::String => 4,
        FieldType::Timestamp => 5,
    });
    out.push(u8::from(cell != Cell::Null));
    match cell {
        Cell::Null => {}
        Cell::Integer(v) | Cell::Timestamp(v) => out.extend(v.to_le_bytes()),
        Cell::Number(v) => out.extend(canonical_bits(v).to_le_bytes()),
        Cell::Boolean(v) => out.push(u8::from(v)),
        Cell::String(v) => {
            out.extend((v.len() as u64).to_le_bytes());
            out.extend(v.as_bytes());
        }
    }
}

/// One zero and one NaN, whatever bits they came with.
fn canonical_bits(value: f64) -> u64 {
    if value.is_nan() {
        0x7ff8_0000_0000_0000
    } else if value == 0.0 {
        0
    } else {
        value.to_bits()
    }
}

/// Sum of row hashes modulo 2^256, with their number: the same for any order of the rows, another when one is repeated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RowSum {
    /// Least significant limb first.
    limbs: [u64; 4],
    rows: u64,
}

impl RowSum {
    /// Adds one row's hash, read as a little-endian number.
    pub fn add(&mut self, hash: &[u8; 32]) {
        let mut carry = false;
        for (limb, chunk) in self.limbs.iter_mut().zip(hash.chunks_exact(8)) {
            let addend = u64::from_le_bytes(chunk.try_into().expect("chunks_exact(8) gives eight bytes"));
            let (sum, first) = limb.overflowing_add(addend);
            let (sum, second) = sum.overflowing_add(u64::from(carry));
            *limb = sum;
            carry = first || second;
        }
        self.rows += 1;
    }

    /// The identity of a dataset version with these rows, this schema and this split.
    pub fn content_digest(&self, schema: &Schema, shares: &Shares) -> Digest {
        let mut hash = Sha256::new();
        hash.update(DOMAIN);
        for json in [canonical_schema(schema), shares.canonical()] {
            hash.update((json.len() as u64).to_le_bytes());
            hash.update(&json);
        }
        for limb in self.limbs {
            hash.update(limb.to_le_bytes());
        }
        hash.update(self.rows.to_le_bytes());
        Digest::from_sha256(hash.finalize().into())
    }
}

/// Exactly what of a field is part of the identity, in this order: a field added to the contract's type must not change it.
#[derive(Serialize)]
struct CanonicalField<'a> {
    name: &'a str,
    #[serde(rename = "type")]
    data_type: FieldType,
    nullable: bool,
    role: FieldRole,
}

fn canonical_schema(schema: &Schema) -> Vec<u8> {
    let fields: Vec<CanonicalField<'_>> = schema
        .fields
        .iter()
        .map(|f| CanonicalField { name: &f.name, data_type: f.data_type, nullable: f.nullable, role: f.role })
        .collect();
    serde_json::to_vec(&fields).expect("strings, enums and booleans always serialise")
}

/// A split spec in whole ten-thousandths.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Shares {
    seed: i64,
    test: u64,
    train: u64,
    validation: u64,
}

impl Shares {
    /// Reads a spec; a sentence when its shares are not between 0 and 1 or do not sum to 1. What admission takes for 1 is 1 here as well: shares that
    /// are a little more or less together are shares of their sum.
    pub fn new(spec: &SplitSpec) -> Result<Self, String> {
        let all = [spec.train, spec.validation, spec.test];
        let each_is_a_share = all.iter().all(|s| (0.0..=1.0).contains(s));
        let sum: f64 = all.iter().sum();
        let sums_to_one = SplitSpec::LEAST_SUM < sum && sum < SplitSpec::GREATEST_SUM;
        if !each_is_a_share || !sums_to_one {
            return Err(format!(
                "split.train {}, split.validation {} and split.test {} must be shares between 0 and 1 that sum to 1",
                spec.train, spec.validation, spec.test
            ));
        }
        let whole = if (sum - 1.0).abs() > ROUNDING { sum } else { 1.0 };
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
        let steps = |share: f64| (share / whole * BUCKETS as f64).round() as u64;
        let (test, validation) = (steps(spec.test), steps(spec.validation));
        Ok(Self { seed: spec.seed, test, validation, train: BUCKETS.saturating_sub(test + validation) })
    }

    /// Test rows come first, so that they stay where they are when only the shares of the other two change.
    fn split_of(&self, key: &[u8]) -> Split {
        let hash = Sha256::new().chain_update(self.seed.to_le_bytes()).chain_update(key).finalize();
        let number = u64::from_le_bytes(hash[..8].try_into().expect("a SHA-256 hash has 32 bytes"));
        let bucket = number % BUCKETS;
        if bucket < self.test {
            Split::Test
        } else if bucket < self.test + self.validation {
            Split::Validation
        } else {
            Split::Train
        }
    }

    fn canonical(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("four integers always serialise")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_contract::dataset::Field;

    fn bytes_of(data_type: FieldType, cell: Cell<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        encode_cell(data_type, cell, &mut out);
        out
    }

    #[test]
    fn cells_have_the_documented_bytes() {
        assert_eq!(bytes_of(FieldType::Integer, Cell::Null), [1, 0]);
        assert_eq!(bytes_of(FieldType::Integer, Cell::Integer(258)), [1, 1, 2, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes_of(FieldType::Number, Cell::Number(1.0)), [2, 1, 0, 0, 0, 0, 0, 0, 0xf0, 0x3f]);
        assert_eq!(bytes_of(FieldType::Number, Cell::Number(-0.0)), [2, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(
            bytes_of(FieldType::Number, Cell::Number(f64::from_bits(0xfff8_0000_0000_0001))),
            [2, 1, 0, 0, 0, 0, 0, 0, 0xf8, 0x7f]
        );
        assert_eq!(bytes_of(FieldType::Boolean, Cell::Boolean(true)), [3, 1, 1]);
        assert_eq!(bytes_of(FieldType::String, Cell::String("é")), [4, 1, 2, 0, 0, 0, 0, 0, 0, 0, 0xc3, 0xa9]);
        assert_eq!(bytes_of(FieldType::Timestamp, Cell::Timestamp(-1)), [5, 1, 255, 255, 255, 255, 255, 255, 255, 255]);
    }

    #[test]
    fn the_sum_carries_over_limbs_and_wraps() {
        let mut sum = RowSum::default();
        sum.add(&[0xff; 32]);
        let mut two = [0; 32];
        two[0] = 2;
        sum.add(&two);
        assert_eq!(sum, RowSum { limbs: [1, 0, 0, 0], rows: 2 });
    }

    fn schema(nullable: bool) -> Schema {
        Schema {
            fields: vec![Field {
                name: "x".to_owned(),
                data_type: FieldType::Integer,
                nullable,
                role: FieldRole::Feature,
            }],
        }
    }

    fn shares(train: f64, validation: f64, test: f64, seed: i64) -> Shares {
        Shares::new(&SplitSpec { train, validation, test, seed }).expect("good shares")
    }

    #[test]
    fn what_the_digest_hashes_is_the_documented_text() {
        assert_eq!(
            String::from_utf8(canonical_schema(&schema(true))).unwrap(),
            r#"[{"name":"x","type":"Integer","nullable":true,"role":"Feature"}]"#
        );
        assert_eq!(
            String::from_utf8(shares(0.8, 0.1, 0.1, 7).canonical()).unwrap(),
            r#"{"seed":7,"test":1000,"train":8000,"validation":1000}"#
        );
    }

    #[test]
    fn order_does_not_matter_but_repetition_schema_split_and_seed_do() {
        let (a, b) = ([1; 32], [9; 32]);
        let sum = |rows: &[&[u8; 32]]| {
            let mut sum = RowSum::default();
            rows.iter().for_each(|r| sum.add(r));
            sum
        };
        let usual = shares(0.8, 0.1, 0.1, 0);
        let digest = sum(&[&a, &b]).content_digest(&schema(false), &usual);
        assert_eq!(sum(&[&b, &a]).content_digest(&schema(false), &usual), digest);
        assert_ne!(sum(&[&a, &b, &b]).content_digest(&schema(false), &usual), digest);
        assert_ne!(sum(&[&a, &b]).content_digest(&schema(true), &usual), digest);
        assert_ne!(sum(&[&a, &b]).content_digest(&schema(false), &shares(0.7, 0.2, 0.1, 0)), digest);
        assert_ne!(sum(&[&a, &b]).content_digest(&schema(false), &shares(0.8, 0.1, 0.1, 1)), digest);
    }

    #[test]
    fn splits_have_their_shares_and_test_rows_stay_when_the_others_change() {
        let (usual, other) = (shares(0.8, 0.1, 0.1, 3), shares(0.5, 0.4, 0.1, 3));
        let mut counts = [0_u32; 3];
        for key in 0_u32..10_000 {
            let split = usual.split_of(&key.to_le_bytes());
            counts[split as usize] += 1;
            assert_eq!(split == Split::Test, other.split_of(&key.to_le_bytes()) == Split::Test);
        }
        // 5 standard deviations of a binomial: 5 * sqrt(10000 * 0.1 * 0.9) = 150.
        assert!(counts[Split::Test as usize].abs_diff(1000) < 150, "{counts:?}");
        assert!(counts[Split::Validation as usize].abs_diff(1000) < 150, "{counts:?}");
    }

    #[test]
    fn shares_that_admission_takes_for_one_are_shares_of_their_sum() {
        let thirds = Shares { seed: 0, test: 3_333, train: 3_334, validation: 3_333 };
        for third in [0.3334, 0.3333, 1.0 / 3.0] {
            assert_eq!(shares(third, third, third, 0), thirds, "{third}");
        }
        // Their sum misses 1 by its last binary digit only. They count as written, or half a step would not be rounded up.
        let written = Shares { seed: 0, test: 21, train: 7_979, validation: 2_000 };
        assert_eq!(shares(0.797_95, 0.2, 0.002_05, 0), written);
    }

    #[test]
    fn shares_that_do_not_sum_to_one_are_refused() {
        for (train, validation, test) in
            [(0.8, 0.1, 0.2), (0.3337, 0.3337, 0.3337), (1.2, -0.1, -0.1), (f64::NAN, 0.5, 0.5), (0.0, 0.0, 0.0)]
        {
            assert!(
                Shares::new(&SplitSpec { train, validation, test, seed: 0 }).is_err(),
                "{train} {validation} {test}"
            );
        }
    }
}
