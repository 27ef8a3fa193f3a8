use super::*;

fn tiny() -> Encoder {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/encoder/tiny-bert");
    Encoder::from_files(ModelFiles::read_dir(folder).unwrap(), Precision::F32).unwrap()
}

/// Texts of three words each.
fn texts() -> Vec<String> {
    const WORDS: [&str; 8] = ["red", "green", "blue", "money", "water", "house", "music", "doctor"];
    (0..240).map(|i| format!("{} {} {}", WORDS[i % 8], WORDS[i / 8 % 8], WORDS[i * 5 / 3 % 8])).collect()
}

fn options() -> DistilOptions {
    let kept = Kept { layers: vec![1], inner: 32, vocabulary: 150, tokens: 32 };
    DistilOptions { kept, ladder: vec![4, 16], epochs: 6, batch: 24, lr: 3e-3, seed: 0 }
}

fn distilled(texts: &[String], options: &DistilOptions, task: &Task) -> Result<Distilled> {
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    distil(&tiny(), &texts, options, task)
}

/// Mean cosine between a student's vectors, cut, and its teacher's along the axes.
fn nearness(student: &Encoder, texts: &[String], rung: usize) -> f32 {
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let teacher = tiny().encode(&texts, &Task::default()).unwrap();
    let wanted = project(&teacher, 32, &principal_axes(&teacher, 32, 16));
    let ours = student.encode(&texts, &Task::default()).unwrap();
    let cosine = |(a, b): (&[f32], &[f32])| {
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        let (a, b) = (&a[..rung], &b[..rung]);
        dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
    };
    ours.chunks(16).zip(wanted.chunks(16)).map(cosine).sum::<f32>() / texts.len() as f32
}

#[test]
fn a_student_comes_near_its_teacher_on_every_rung() {
    let texts = texts();
    let untrained = distilled(&texts, &DistilOptions { lr: 1e-9, epochs: 1, ..options() }, &Task::default());
    let trained = distilled(&texts, &options(), &Task::default()).unwrap();
    assert!(trained.report.loss_last < 0.5 * trained.report.loss_first, "{:?}", trained.report);
    let load = |distilled: Distilled| Encoder::from_files(distilled.files, Precision::F32).unwrap();
    let (untrained, trained) = (load(untrained.unwrap()), load(trained));
    assert_eq!((trained.dim(), trained.layers(), trained.max_tokens()), (16, 1, 32));
    for rung in [4, 16] {
        let (before, after) = (nearness(&untrained, &texts, rung), nearness(&trained, &texts, rung));
        assert!(after > 0.9 && after > before + 0.02, "{rung}: {before} {after}");
    }
}

#[test]
fn false_wishes_are_refused_and_a_cancelled_task_stops() {
    let texts = texts();
    for wrong in [
        DistilOptions { ladder: vec![], ..options() },
        DistilOptions { ladder: vec![16, 4], ..options() },
        DistilOptions { ladder: vec![33], ..options() },
        DistilOptions { kept: Kept { layers: vec![7], ..options().kept }, ..options() },
    ] {
        assert!(matches!(distilled(&texts, &wrong, &Task::default()), Err(Error::Input(_))), "{wrong:?}");
    }
    assert!(matches!(distilled(&texts[..31], &options(), &Task::default()), Err(Error::Input(_))));
    let task = Task::default();
    task.cancel();
    assert!(matches!(distilled(&texts, &options(), &task), Err(Error::Cancelled)));
}
