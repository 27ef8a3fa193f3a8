use super::*;

fn document(id: &str, title: Option<&str>, text: &str) -> StructureSource {
    StructureSource { id: id.into(), title: title.map(str::to_owned), text: text.into() }
}

fn only(kind: StructureKind) -> StructureOptions {
    StructureOptions { kinds: vec![kind], ..StructureOptions::default() }
}

/// Documents that have nothing in common, of three sentences each.
fn many(count: usize) -> Vec<StructureSource> {
    let text = |n: usize| {
        format!(
            "Lamp{n} shines over harbour{n} in winter{n}. Boats{n} wait below bridge{n} until morning{n} comes. \
             Nobody{n} knows why crane{n} stands still{n}."
        )
    };
    (0..count)
        .map(|n| document(&format!("d{n}"), Some(&format!("On the harbour of town{n}")), &text(n)))
        .collect()
}

#[test]
fn a_title_finds_its_text_and_a_short_heading_takes_the_title_along() {
    let text = "What comes before the first heading is no section at all.\n\n# Cost\n\nIt costs nothing but a bit of \
                patience and some time of yours.";
    let options = StructureOptions { per_document: 10, ..StructureOptions::default() };
    let (pairs, report) = structure_pairs([document("a", Some("A guide to the harbour"), text)], &options);
    let of = |kind| pairs.iter().find(|pair| pair.kind == kind).unwrap();
    let title = of(StructureKind::Title);
    assert_eq!((&*title.query, &*title.id), ("A guide to the harbour", "a"));
    assert_eq!(title.passage.as_deref(), Some(text));
    let heading = of(StructureKind::Heading);
    assert_eq!(heading.query, "A guide to the harbour: Cost");
    assert!(heading.passage.as_ref().unwrap().starts_with("It costs"));
    assert_eq!((report.documents, report.titles, report.headings), (1, 1, 1));
}

#[test]
fn a_sentence_is_taken_out_of_its_passage() {
    let (pairs, report) = structure_pairs(many(3), &only(StructureKind::Sentence));
    assert_eq!((pairs.len(), report.sentences), (9, 9));
    for pair in &pairs {
        let passage = pair.passage.as_ref().unwrap();
        assert!(!passage.contains(&pair.query), "{pair:?}");
        assert!(passage.starts_with("On the harbour of town"), "the title goes along: {pair:?}");
        assert_eq!(sentences(passage).len(), 2);
    }
}

#[test]
fn words_keep_their_order_and_are_at_most_half_of_a_short_text() {
    let (pairs, report) = structure_pairs(many(50), &only(StructureKind::Words));
    assert!(report.words > 100 && report.words == pairs.len());
    for pair in &pairs {
        let number: usize = pair.id[1..].parse().unwrap();
        let text = many(number + 1)[number].text.clone();
        let mut left = text.split_whitespace();
        assert!(pair.query.split(' ').all(|word| left.any(|other| other == word)), "{pair:?}");
        assert!((4..=10).contains(&pair.query.split(' ').count()) && pair.passage.is_none());
    }
    let six = document("a", None, "Six words are not quite enough");
    assert!(structure_pairs([six], &only(StructureKind::Words)).0.is_empty());
    let eight = document("a", None, "Eight words are enough for four of them");
    let (pairs, _) = structure_pairs([eight], &only(StructureKind::Words));
    assert!(pairs.iter().all(|pair| pair.query.split(' ').count() == 4) && !pairs.is_empty());
    // Of a long text they lie together.
    let long: Vec<String> = (0..2_000).map(|n| format!("{n}th")).collect();
    let (pairs, _) = structure_pairs(
        [document("a", None, &long.join(" "))],
        &StructureOptions { letters: 0.0, ..only(StructureKind::Words) },
    );
    let place = |word: &str| word.trim_end_matches("th").parse::<usize>().unwrap();
    assert!(pairs.iter().all(|pair| {
        let (first, last) =
            (pair.query.split(' ').next().unwrap(), pair.query.split(' ').next_back().unwrap());
        place(last) - place(first) < 200
    }));
}

#[test]
fn what_several_documents_say_is_no_query() {
    let same = "This report contains forward-looking statements as always.";
    let mut documents = many(4);
    for document in &mut documents {
        document.text = format!("{} {same}", document.text);
        document.title = Some("Annual report of the company".into());
    }
    let kinds = vec![StructureKind::Title, StructureKind::Sentence];
    let options = StructureOptions { kinds, per_document: 10, ..StructureOptions::default() };
    let (pairs, report) = structure_pairs(documents, &options);
    assert!(pairs.iter().all(|pair| pair.query != same && pair.kind != StructureKind::Title), "{pairs:?}");
    assert_eq!((pairs.len(), report.repeated), (12, 8));
}

#[test]
fn unfit_texts_are_counted_by_reason() {
    let texts = [
        ("short", Some("Too short"), "There is a text of several words below this title."),
        ("long", Some(&*"word ".repeat(40)), "There is a text of several words below that title."),
        ("digits", Some("12 345 678 9 total 1 2"), "There is a text of several words below the title."),
        ("alike", Some("the text says it"), "Here, The Text says it: word for word as above, alas."),
        ("empty", Some("A title without any text"), ""),
    ];
    let documents = texts.map(|(id, title, text)| document(id, title, text));
    let (pairs, report) = structure_pairs(documents, &only(StructureKind::Title));
    assert!(pairs.is_empty(), "{pairs:?}");
    assert_eq!((report.unfit, report.no_words, report.alike), (3, 1, 1));
    assert!(report.notes()[1].contains("3 too short or too long, 1 without"), "{:?}", report.notes());
}

#[test]
fn the_seed_decides_and_the_order_of_documents_does_not() {
    let draw = |seed, reversed: bool| {
        let mut documents = many(40);
        if reversed {
            documents.reverse();
        }
        structure_pairs(documents, &StructureOptions { seed, ..StructureOptions::default() }).0
    };
    assert_eq!(draw(1, false), draw(1, false));
    assert_eq!(draw(1, false), draw(1, true));
    assert_ne!(draw(1, false), draw(2, false));
}

#[test]
fn bounds_hold_for_each_document_and_in_all() {
    let options = StructureOptions { per_document: 2, most: 30, ..StructureOptions::default() };
    let (pairs, report) = structure_pairs(many(100), &options);
    assert_eq!(pairs.len(), 30);
    let mut of: HashMap<&str, usize> = HashMap::new();
    pairs.iter().for_each(|pair| *of.entry(&pair.id).or_default() += 1);
    assert!(of.values().all(|&count| count <= 2) && report.beyond > 100);
    // Kinds take turns within a document: both are there.
    assert!(report.titles > 5 && report.words > 5, "{report:?}");
}

#[test]
fn a_long_text_gives_passages_of_bounded_length() {
    let text: String = (0..2_000).map(|n| format!("Sentence {n} tells of another thing{n}. ")).collect();
    let kinds = vec![StructureKind::Title, StructureKind::Sentence];
    let options = StructureOptions { kinds, per_document: 2_000, ..StructureOptions::default() };
    let title = "A very long text indeed";
    let (pairs, _) = structure_pairs([document("a", Some(title), &text)], &options);
    assert!(pairs.len() > 1_000);
    let most = options.passage_bytes + title.len() + 1;
    assert!(pairs.iter().all(|pair| pair.passage.as_ref().unwrap().len() <= most));
}
