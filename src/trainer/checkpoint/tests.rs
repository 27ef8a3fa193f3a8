use super::super::optimiser::AdamOptions;
use super::*;
use crate::encoder::Gradient;

/// A matrix, a frozen one and a table of which two rows were used, after two steps.
fn trained() -> (Parameters, AdamW) {
    let values = |count: usize| (0..count).map(|i| i as f32 / 8.0 - 1.0).collect::<Vec<_>>();
    let mut parameters = Parameters::new(vec![
        Parameter::new("dense.weight", vec![2, 3], values(6)),
        Parameter::frozen("frozen.weight", vec![2], values(2)),
        Parameter::table("words.weight", [5, 2], values(10)),
    ]);
    let mut adam = AdamW::new(&parameters, AdamOptions::default(), 1);
    for step in 1..3 {
        parameters.clear();
        let dense = parameters.get_mut("dense.weight").unwrap();
        dense.gradient.dense().unwrap().fill(step as f32);
        let table = parameters.get_mut("words.weight").unwrap();
        let Gradient::Rows(rows) = &mut table.gradient else { unreachable!() };
        rows.used(2 * step).unwrap().fill(0.5);
        adam.step(&mut parameters, 1.0).unwrap();
    }
    (parameters, adam)
}

fn records() -> Vec<StepRecord> {
    (0..2).map(|i| StepRecord { loss: f64::from(i), rate: 0.1, norm: 2.0, rows: 3, seconds: 0.5 }).collect()
}

fn bytes() -> Vec<u8> {
    let (parameters, optimiser) = trained();
    let state =
        State { run: 9, time: Duration::from_millis(1500), records: &records(), optimiser: &optimiser };
    write(&state, &parameters)
}

/// A model as it was before the run.
fn fresh() -> (Parameters, AdamW) {
    let (mut parameters, _) = trained();
    for parameter in parameters.iter_mut() {
        for (i, value) in parameter.values.iter_mut().enumerate() {
            *value = i as f32 / 8.0 - 1.0;
        }
    }
    let adam = AdamW::new(&parameters, AdamOptions::default(), 1);
    (parameters, adam)
}

fn read_into(bytes: &[u8]) -> (Result<Saved>, Parameters, AdamW) {
    let (mut parameters, mut adam) = fresh();
    (read(bytes, 9, &mut parameters, &mut adam), parameters, adam)
}

/// The bytes with a sum that is right.
fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    let sum = xxh3_64(&bytes[BODY..]);
    bytes[BODY - 8..BODY].copy_from_slice(&sum.to_le_bytes());
    bytes
}

#[test]
fn a_state_is_read_as_it_was_written() {
    let (saved, parameters, adam) = read_into(&bytes());
    let saved = saved.unwrap();
    assert_eq!((saved.time, saved.records), (Duration::from_millis(1500), records()));
    let (expected, expected_adam) = trained();
    for (got, expected) in parameters.iter().zip(expected.iter()) {
        assert_eq!(got.values, expected.values, "{}", got.name);
    }
    assert_eq!((adam.moments, adam.steps), (expected_adam.moments, 2));
}

#[test]
fn every_truncation_and_every_changed_byte_is_refused_and_changes_nothing() {
    let whole = bytes();
    let unchanged = |parameters: &Parameters, adam: &AdamW| {
        let (expected, expected_adam) = fresh();
        adam.moments == expected_adam.moments
            && parameters.iter().zip(expected.iter()).all(|(a, b)| a.values == b.values)
    };
    for end in 0..whole.len() {
        for cut in [whole[..end].to_vec(), sealed_if_long(&whole[..end])] {
            let (outcome, parameters, adam) = read_into(&cut);
            assert!(matches!(outcome, Err(Error::Corrupt { .. })), "{end}: {outcome:?}");
            assert!(unchanged(&parameters, &adam), "{end}");
        }
    }
    for at in 0..whole.len() {
        let mut wrong = whole.clone();
        wrong[at] ^= 0x41;
        let (outcome, parameters, adam) = read_into(&wrong);
        assert!(outcome.is_err() && unchanged(&parameters, &adam), "{at}");
    }
}

fn sealed_if_long(bytes: &[u8]) -> Vec<u8> {
    if bytes.len() < BODY { bytes.to_vec() } else { sealed(bytes.to_vec()) }
}

/// With a right sum, whatever the bytes: an error of ours or a state, and no more memory than they are worth.
#[test]
fn hostile_bytes_with_a_right_sum_do_no_harm() {
    let whole = bytes();
    for at in BODY..whole.len() {
        for change in [0x01, 0x80, 0xff] {
            let mut wrong = whole.clone();
            wrong[at] ^= change;
            if let Err(error) = read_into(&sealed(wrong)).0 {
                assert!(matches!(error, Error::Corrupt { .. } | Error::Input(_)), "{at}: {error}");
            }
        }
    }
    let mut longer = whole.clone();
    longer.push(0);
    assert!(matches!(read_into(&sealed(longer)).0, Err(Error::Corrupt { .. })));
}

#[test]
fn newer_bytes_say_so() {
    let mut newer = bytes();
    newer[8] = 2;
    assert!(matches!(read_into(&newer).0, Err(Error::TooNew { .. })));
}
