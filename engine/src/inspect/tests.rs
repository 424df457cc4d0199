//! The inspector on bytes made by hand, and on bytes that nobody made: whatever it is given, it answers, at once.

use proptest::prelude::*;

use super::{
    tensors::Location,
    wire::{put_bytes, put_number},
    *,
};

/// A length-delimited protobuf field.
fn nested(number: u64, inner: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    put_bytes(&mut bytes, number, inner);
    bytes
}

fn number(field: u64, value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    put_number(&mut bytes, field, value);
    bytes
}

fn in_graph(parts: &[Vec<u8>]) -> Vec<u8> {
    nested(7, &parts.concat())
}

fn refusal(bytes: &[u8]) -> String {
    outline(bytes).unwrap_err().to_string()
}

#[test]
fn an_empty_truncated_or_foreign_file_is_no_model() {
    assert!(refusal(b"").contains("empty"));
    assert!(refusal(&[0x3a, 0x05, 0x00]).contains("truncated"));
    assert!(refusal(&[0x08, 0x07]).contains("no graph"));
    assert!(outline(b"<html>not found</html>").is_err());
    assert!(outline(&nested(7, b"")).is_ok());
}

#[test]
fn external_data_are_found_in_initializers_and_deep_in_attributes() {
    let entry = |key: &[u8], value: &[u8]| nested(13, &[nested(1, key), nested(2, value)].concat());
    let external = [
        number(1, 3),
        number(2, 1),
        nested(8, b"w"),
        number(14, 1),
        entry(b"location", b"w.bin"),
        entry(b"offset", b"64"),
    ]
    .concat();
    let found =
        Location { tensor: "w".into(), path: "w.bin".into(), offset: Some("64".into()), length: None, needed: 12 };
    assert_eq!(outline(&in_graph(&[nested(5, &external)])).unwrap().external, std::slice::from_ref(&found));
    let in_branch = in_graph(&[nested(1, &nested(5, &nested(6, &nested(5, &external))))]);
    assert_eq!(outline(&in_branch).unwrap().external, [found]);
}

#[test]
fn a_tensor_must_hold_as_much_as_its_shape_says_in_every_way_to_write_it() {
    let tensor = |parts: &[Vec<u8>]| outline(&in_graph(&[nested(5, &parts.concat())])).map(|_| ());
    let (two, float, int4) = (number(1, 2), number(2, 1), number(2, 22));
    assert!(tensor(&[two.clone(), float.clone(), nested(9, &[0; 8])]).is_ok());
    assert!(tensor(&[two.clone(), float.clone(), nested(4, &[0; 8])]).is_ok());
    assert!(tensor(&[two.clone(), float.clone(), vec![0x25, 0, 0, 0, 0], vec![0x25, 0, 0, 0, 0]]).is_ok());
    assert!(tensor(&[two.clone(), float.clone(), nested(9, &[0; 7])]).is_err());
    assert!(tensor(&[two.clone(), float.clone(), nested(4, &[0; 12])]).is_err());
    assert!(tensor(&[two.clone(), float]).is_err());
    assert!(tensor(&[number(1, 3), int4.clone(), nested(9, &[0; 2])]).is_ok());
    assert!(tensor(&[number(1, 3), int4, nested(9, &[0; 3])]).is_err());
    assert!(tensor(&[number(1, 0), number(2, 7)]).is_ok());
    assert!(tensor(&[number(2, 7), number(7, 5)]).is_ok());
    // Packed dimensions: 2 and 3; packed integers, of which two take two bytes.
    assert!(tensor(&[nested(1, &[2, 3]), number(2, 6), nested(5, &[1, 2, 0x80, 1, 4, 0x80, 1, 6])]).is_ok());
}

#[test]
fn graphs_nested_without_end_are_refused_before_the_stack_is() {
    let deep = |levels: usize| {
        let mut graph = Vec::new();
        for _ in 0..levels {
            graph = nested(1, &nested(5, &nested(6, &graph)));
        }
        nested(7, &graph)
    };
    assert!(outline(&deep(20)).is_ok());
    assert!(refusal(&deep(25)).contains("deeper"));
    assert!(refusal(&deep(2_000)).contains("deeper"));
}

#[test]
fn a_zip_map_becomes_an_identity_and_its_output_a_table() {
    let classes = nested(5, &[nested(1, b"classlabels_strings"), nested(9, b"no"), nested(9, b"yes")].concat());
    let zip_map =
        [nested(1, b"p"), nested(2, b"probs"), nested(4, b"ZipMap"), nested(7, b"ai.onnx.ml"), classes].concat();
    let model = in_graph(&[nested(1, &zip_map), nested(12, &nested(1, b"probs"))]);
    let maps = outline(&model).unwrap().zip_maps;
    let expected = ZipMap { input: "p".into(), output: "probs".into(), classes: vec!["no".into(), "yes".into()] };
    assert_eq!(maps, [expected]);
    let identity = [nested(1, b"p"), nested(2, b"probs"), nested(4, b"Identity")].concat();
    let shape = [nested(1, &nested(2, b"rows")), nested(1, &number(1, 2))].concat();
    let table = nested(2, &nested(1, &[number(1, 1), nested(2, &shape)].concat()));
    let output = nested(12, &[nested(1, b"probs"), table].concat());
    let operators = nested(8, &number(2, 13));
    let rewritten = without_zip_maps(&model, &maps).unwrap();
    assert_eq!(rewritten, [in_graph(&[nested(1, &identity), output]), operators].concat());
    assert!(outline(&rewritten).unwrap().zip_maps.is_empty());
}

/// Executions of each property: some hundred in the tests, millions by `FUZZ_CASES`.
fn cases() -> ProptestConfig {
    let cases = std::env::var("FUZZ_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(512);
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

fn seeds() -> Vec<Vec<u8>> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/models");
    let mut seeds = Vec::new();
    for folder in [folder.to_owned(), format!("{folder}/hostile")] {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "onnx") {
                seeds.push(std::fs::read(path).unwrap());
            }
        }
    }
    seeds
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn any_bytes_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        _ = outline(&bytes);
        _ = outline(&nested(7, &bytes));
    }

    #[test]
    fn any_damage_to_a_model_is_answered(
        seed in any::<prop::sample::Index>(),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..4_u8), 1..12),
    ) {
        thread_local!(static SEEDS: Vec<Vec<u8>> = seeds());
        let mut bytes = SEEDS.with(|seeds| seed.get(seeds).clone());
        for (place, byte, how) in damage {
            if bytes.is_empty() {
                break;
            }
            let at = place.index(bytes.len());
            match how {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                2 => _ = bytes.remove(at),
                _ => bytes.truncate(at),
            }
        }
        if let Ok(outline) = outline(&bytes) {
            prop_assert!(without_zip_maps(&bytes, &outline.zip_maps).is_ok());
        }
    }
}
