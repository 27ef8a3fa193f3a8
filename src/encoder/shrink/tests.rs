use super::*;
use crate::options::Task;
use crate::types::Precision;

const TEXTS: [&str; 5] =
    ["the red house", "money and water", "a doctor for the blue house", "music, green music!", "x"];

fn tiny() -> Encoder {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/encoder/tiny-bert");
    Encoder::from_files(ModelFiles::read_dir(folder).unwrap(), Precision::F32).unwrap()
}

fn everything() -> Kept {
    Kept { layers: vec![0, 1], inner: 64, vocabulary: 600, tokens: 64 }
}

/// The axes of the space itself.
fn identity() -> Vec<f32> {
    (0..32 * 32).map(|at| f32::from(u8::from(at / 32 == at % 32))).collect()
}

fn load(files: ModelFiles) -> Encoder {
    Encoder::from_files(files, Precision::F32).unwrap()
}

fn least_cosine(a: &Encoder, b: &Encoder) -> f32 {
    let vectors = |encoder: &Encoder| encoder.encode(&TEXTS, &Task::default()).unwrap();
    let (a, b) = (vectors(a), vectors(b));
    let cosine = |(a, b): (&[f32], &[f32])| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    a.chunks(32).zip(b.chunks(32)).map(cosine).fold(1.0, f32::min)
}

#[test]
fn who_keeps_everything_has_the_same_model() {
    let tiny = tiny();
    let same = load(tiny.shrunk(&everything(), &TEXTS, &identity()).unwrap());
    assert!(least_cosine(&tiny, &same) > 0.999_999);
    assert_eq!(load(tiny.shrunk(&everything(), &TEXTS, &identity()[..8 * 32]).unwrap()).dim(), 8);
}

#[test]
fn an_adapter_becomes_part_of_the_dense_layer() {
    let mut turn = identity();
    turn.rotate_right(32);
    let turned = tiny().with_adapter(&turn).unwrap();
    let same = load(turned.shrunk(&everything(), &TEXTS, &identity()).unwrap());
    assert!(least_cosine(&turned, &same) > 0.999_999);
    assert!(least_cosine(&tiny(), &same) < 0.9);
}

#[test]
fn units_that_matter_least_go_first() {
    let tiny = tiny();
    let turned_by = |inner: usize| {
        let kept = Kept { inner, ..everything() };
        least_cosine(&tiny, &load(tiny.shrunk(&kept, &TEXTS, &identity()).unwrap()))
    };
    let (most, half) = (turned_by(60), turned_by(32));
    assert!(most > 0.999 && half < most, "{most} {half}");
}

#[test]
fn a_vocabulary_keeps_what_occurs_and_every_letter() {
    let tiny = tiny();
    let kept = Kept { vocabulary: 150, ..everything() };
    let files = tiny.shrunk(&kept, &TEXTS, &identity()).unwrap();
    let small = load(files);
    let count = |encoder: &Encoder, text: &str| encoder.count_tokens(text).unwrap();
    for text in TEXTS {
        assert_eq!(count(&small, text), count(&tiny, text), "{text}: its tokens occur");
    }
    let ids = |encoder: &Encoder, text: &str| encoder.tokenizer().encode(text).unwrap();
    // A word that does not occur falls into letters; none of them is unknown.
    let gone = "information";
    assert!(count(&small, gone) > count(&tiny, gone));
    let unknown = small.tokenizer().encode("\u{4e16}").unwrap()[1];
    assert!(!ids(&small, "information zzz 0 qwerty").contains(&unknown));
    assert!(least_cosine(&tiny, &small) > 0.999_999);
}

#[test]
fn fewer_layers_and_tokens_make_a_smaller_model() {
    let kept = Kept { layers: vec![1], tokens: 16, ..everything() };
    let small = load(tiny().shrunk(&kept, &TEXTS, &identity()).unwrap());
    assert_eq!((small.layers(), small.max_tokens()), (1, 16));
    assert_eq!(small.encode(&["the ".repeat(100).as_str()], &Task::default()).unwrap().len(), 32);
}

#[test]
fn bytes_instead_of_numbers_compute_the_same_in_int8() {
    let files = tiny().shrunk(&everything(), &TEXTS, &identity()).unwrap();
    let codes = files.in_codes().unwrap();
    assert!(codes.total_bytes() - 20_000 < files.total_bytes() / 2);
    let coded = load(codes.clone());
    assert!(least_cosine(&load(files.clone()), &coded) > 0.999);
    let coarse = |files: ModelFiles| Encoder::from_files(files, Precision::Int8).unwrap();
    assert!(least_cosine(&coarse(files), &coarse(codes)) > 0.999);
    // For others it is written in numbers.
    let folder = tempfile::tempdir().unwrap();
    coded.export(folder.path()).unwrap();
    let exported = ModelFiles::read_dir(folder.path()).unwrap();
    assert!(!exported.iter().any(|(_, bytes)| bytes.windows(7).any(|part| part == b".scales")));
    assert!(least_cosine(&load(exported), &coded) > 0.999_999);
}

#[test]
fn what_the_model_does_not_have_cannot_be_kept() {
    let cases = [
        (Kept { layers: vec![], ..everything() }, "layers"),
        (Kept { layers: vec![0, 2], ..everything() }, "layers"),
        (Kept { layers: vec![1, 0], ..everything() }, "layers"),
        (Kept { inner: 65, ..everything() }, "inner"),
        (Kept { inner: 0, ..everything() }, "inner"),
        (Kept { tokens: 65, ..everything() }, "tokens"),
        (Kept { tokens: 2, ..everything() }, "tokens"),
    ];
    for (kept, word) in cases {
        let error = tiny().shrunk(&kept, &TEXTS, &identity()).unwrap_err();
        assert!(matches!(&error, Error::Input(what) if what.contains(word)), "{error}");
    }
    assert!(tiny().shrunk(&everything(), &TEXTS, &[1.0; 33]).is_err());
    let families = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/encoder/families");
    for entry in std::fs::read_dir(families).unwrap() {
        let path = entry.unwrap().path();
        if !path.is_dir() {
            continue;
        }
        let encoder = load(ModelFiles::read_dir(&path).unwrap());
        let error = encoder.shrunk(&everything(), &TEXTS, &identity());
        assert!(matches!(error, Err(Error::Input(_))), "{}", path.display());
    }
}
