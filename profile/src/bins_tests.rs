//! Tests of the frozen bins.

use super::*;

fn numeric(edges: &[f64]) -> Bins {
    Bins::Numeric { edges: edges.to_vec() }
}

fn categorical(categories: &[&str]) -> Bins {
    Bins::Categorical { categories: categories.iter().map(|text| (*text).to_owned()).collect() }
}

#[test]
fn many_numbers_get_deciles_with_edges_between_values() {
    let values: Vec<f64> = (1..=100).rev().map(f64::from).collect();
    assert_eq!(freeze_numbers(&values), numeric(&[10.5, 20.5, 30.5, 40.5, 50.5, 60.5, 70.5, 80.5, 90.5]));
}

#[test]
fn repeated_deciles_are_one_edge() {
    let mut values = vec![0.0; 70];
    values.extend((1..=30).map(f64::from));
    assert_eq!(freeze_numbers(&values), numeric(&[0.5, 10.5, 20.5]));
}

#[test]
fn few_whole_numbers_are_categories_and_few_others_get_a_bin_each() {
    assert_eq!(freeze_numbers(&[2.0, -0.0, 2.0, 1.0]), categorical(&["0", "1", "2"]));
    assert_eq!(freeze_numbers(&[0.5, 1.5, 0.5]), numeric(&[0.0, 1.0, 2.0]));
}

#[test]
fn a_constant_that_changes_leaves_its_bin() {
    let bins = freeze_numbers(&[0.1; 50]);
    let binner = Binner::new(&bins);
    assert_eq!(bins.len(), 3);
    assert_eq!(binner.bin_of(Value::Number(0.05)), Some(0));
    assert_eq!(binner.bin_of(Value::Number(f64::from(0.1_f32))), Some(1));
    assert_eq!(binner.bin_of(Value::Number(0.2)), Some(2));
}

#[test]
fn no_values_make_one_bin_for_whatever_comes() {
    assert_eq!(freeze_numbers(&[f64::NAN, f64::INFINITY]).len(), 1);
}

#[test]
fn the_most_frequent_categories_are_kept_and_the_rest_share_a_bin() {
    let texts: Vec<String> = (0..70).map(|index| format!("c{index:02}")).collect();
    let bins = freeze_categories(texts.iter().map(|text| (text.as_str(), if text == "c69" { 9 } else { 1 })));
    let Bins::Categorical { categories } = &bins else { panic!("categorical") };
    assert_eq!(categories.len(), 64);
    assert_eq!(categories[..2], ["c69".to_owned(), "c00".to_owned()]);
    assert_eq!(Binner::new(&bins).bin_of(Value::Text("c68")), Some(64));
}

#[test]
fn values_find_their_bins() {
    let cases = [
        (numeric(&[1.0, 2.0]), Value::Number(1.0), Some(0)),
        (numeric(&[1.0, 2.0]), Value::Number(1.1), Some(1)),
        (numeric(&[1.0, 2.0]), Value::Number(f64::NEG_INFINITY), Some(0)),
        (numeric(&[1.0, 2.0]), Value::Number(f64::INFINITY), Some(2)),
        (numeric(&[1.0, 2.0]), Value::Number(f64::NAN), None),
        (numeric(&[1.0, 2.0]), Value::Text("1.5"), Some(1)),
        (numeric(&[1.0, 2.0]), Value::Text("x"), None),
        (numeric(&[0.5]), Value::Boolean(true), Some(1)),
        (categorical(&["a", "b"]), Value::Text("b"), Some(1)),
        (categorical(&["a", "b"]), Value::Text("c"), Some(2)),
        (categorical(&["a", "b"]), Value::Missing, None),
        (categorical(&["false", "true"]), Value::Boolean(true), Some(1)),
        (categorical(&["0", "1"]), Value::Boolean(true), Some(1)),
        (categorical(&["0", "1"]), Value::Number(1.0), Some(1)),
        (categorical(&["0", "1"]), Value::Number(7.0), Some(2)),
        (categorical(&["0", "1"]), Value::Number(f64::NAN), None),
    ];
    for (bins, value, expected) in cases {
        assert_eq!(Binner::new(&bins).bin_of(value), expected, "{value:?} in {bins:?}");
    }
}

#[test]
fn counts_over_the_same_bins_add_up_and_others_are_refused() {
    let mut counts = Counts { bins: vec![1, 2], missing: 3 };
    merge(&mut counts, &Counts { bins: vec![10, 20], missing: 30 }).unwrap();
    assert_eq!(counts, Counts { bins: vec![11, 22], missing: 33 });
    assert_eq!(total(&counts), 66);
    let refused = merge(&mut counts, &Counts { bins: vec![1], missing: 0 });
    assert_eq!(refused, Err(BinsError::Length { left: 2, right: 1 }));
    let mut fresh = Counts::default();
    merge(&mut fresh, &counts).unwrap();
    assert_eq!(fresh, counts);
}
