use std::collections::BTreeSet;
use std::path::Path;

use super::*;

const LOG: &str = "/log";
const SECTOR: usize = 512;

/// Writes to a file, new if missing.
fn put(vfs: &SimVfs, path: &str, offset: u64, bytes: &[u8], sync: bool) {
    let path = Path::new(path);
    let mut file = match vfs.exists(path).unwrap() {
        true => vfs.open_write(path).unwrap(),
        false => vfs.create(path).unwrap(),
    };
    file.write_at(offset, bytes).unwrap();
    if sync {
        file.sync().unwrap();
    }
}

/// What a file holds, if it is there.
fn get(vfs: &SimVfs, path: &str) -> Option<Vec<u8>> {
    vfs.exists(Path::new(path)).unwrap().then(|| vfs.read(Path::new(path)).unwrap())
}

/// What a file holds in each of many images of the present moment.
fn outcomes(vfs: &SimVfs, mode: CrashMode, path: &str) -> BTreeSet<Option<Vec<u8>>> {
    let mut series = vfs.crash_series();
    series.advance_to(usize::MAX);
    (0..300).map(|seed| get(&series.image(mode, seed), path)).collect()
}

/// A disk with a durable file.
fn with_log(content: &[u8]) -> SimVfs {
    let vfs = SimVfs::new(1);
    put(&vfs, LOG, 0, content, true);
    vfs.sync_dir(Path::new("/")).unwrap();
    vfs
}

fn io_kind(error: Error) -> io::ErrorKind {
    let Error::Io { source, .. } = error else { panic!("not an i/o error: {error}") };
    source.kind()
}

#[test]
fn a_kill_loses_nothing() {
    let vfs = with_log(b"one");
    put(&vfs, LOG, 3, b"two", false);
    put(&vfs, "/new", 0, b"x", false);
    let image = vfs.crash_image(vfs.op_count(), CrashMode::KillOnly, 0);
    assert_eq!(get(&image, LOG).unwrap(), b"onetwo");
    assert_eq!(get(&image, "/new").unwrap(), b"x");
    assert_eq!(image.op_count(), 0);
}

#[test]
fn a_power_cut_may_drop_all_that_was_not_synced() {
    let vfs = SimVfs::new(1);
    put(&vfs, LOG, 0, b"one", true);
    assert_eq!(outcomes(&vfs, CrashMode::DropAll, LOG), [None].into(), "the name is not durable");
    vfs.sync_dir(Path::new("/")).unwrap();
    put(&vfs, LOG, 3, b"two", false);
    put(&vfs, LOG, 0, b"O", false);
    assert_eq!(outcomes(&vfs, CrashMode::DropAll, LOG), [Some(b"one".to_vec())].into());
    put(&vfs, LOG, 6, b"!", true);
    assert_eq!(outcomes(&vfs, CrashMode::DropAll, LOG), [Some(b"Onetwo!".to_vec())].into());
    vfs.remove_file(Path::new(LOG)).unwrap();
    assert_eq!(outcomes(&vfs, CrashMode::DropAll, LOG), [Some(b"Onetwo!".to_vec())].into());
    vfs.sync_dir(Path::new("/")).unwrap();
    assert_eq!(outcomes(&vfs, CrashMode::DropAll, LOG), [None].into());
}

#[test]
fn each_position_has_its_own_image() {
    let vfs = with_log(b"");
    let start = vfs.op_count();
    for byte in 0..5u8 {
        put(&vfs, LOG, byte.into(), &[byte], true);
    }
    for done in 0..=5usize {
        let image = vfs.crash_image(start + 2 * done, CrashMode::DropAll, 0);
        assert_eq!(get(&image, LOG).unwrap(), (0..done as u8).collect::<Vec<_>>());
    }
    assert_eq!(get(&vfs.crash_image(0, CrashMode::KillOnly, 0), LOG), None);
}

#[test]
fn sectors_are_kept_or_lost_one_by_one() {
    let vfs = with_log(&[b'a'; 4 * SECTOR]);
    put(&vfs, LOG, 0, &[b'b'; 4 * SECTOR], false);
    let seen = outcomes(&vfs, CrashMode::Random, LOG);
    let mut patterns = BTreeSet::new();
    for content in seen.into_iter().flatten() {
        assert_eq!(content.len(), 4 * SECTOR, "an overwrite does not change the length");
        let pattern: Vec<u8> = content.chunks(SECTOR).map(|sector| sector[0]).collect();
        assert!(content.chunks(SECTOR).all(|sector| sector.iter().all(|byte| *byte == sector[0])));
        patterns.insert(pattern);
    }
    assert_eq!(patterns.len(), 16, "every combination of four sectors occurs");
}

#[test]
fn a_file_may_grow_without_its_data() {
    let vfs = with_log(&[1; 700]);
    put(&vfs, LOG, 700, &[2; 1500], false);
    let seen: Vec<Vec<u8>> = outcomes(&vfs, CrashMode::Random, LOG).into_iter().flatten().collect();
    assert!(seen.iter().all(|content| content.starts_with(&[1; 700])), "synced bytes stay");
    assert!(seen.iter().all(|content| (700..=2200).contains(&content.len())));
    let third = |content: &Vec<u8>| content.get(1024..1536).map(<[u8]>::to_vec);
    assert!(seen.iter().any(|content| content.len() == 700), "neither length nor data");
    assert!(seen.iter().any(|content| content.len() == 2200 && content.ends_with(&[2; 1500])), "both");
    assert!(seen.iter().any(|content| third(content) == Some(vec![0; SECTOR])), "zeros");
    let garbage = |bytes: Vec<u8>| bytes.iter().any(|byte| *byte != 0 && *byte != 2);
    assert!(seen.iter().any(|content| third(content).is_some_and(garbage)), "garbage");
}

#[test]
fn a_sector_holds_one_of_its_versions() {
    let vfs = with_log(b"000000000000");
    for i in 0..3u64 {
        put(&vfs, LOG, 4 * i, &[b'1' + i as u8; 4], false);
    }
    let versions: [&[u8]; 4] = [b"000000000000", b"111100000000", b"111122220000", b"111122223333"];
    assert_eq!(
        outcomes(&vfs, CrashMode::Random, LOG),
        versions.into_iter().map(|content| Some(content.to_vec())).collect()
    );
}

#[test]
fn a_torn_write_is_a_prefix() {
    let vfs = with_log(b"one");
    put(&vfs, LOG, 3, b"two", false);
    put(&vfs, "/other", 0, b"three", false);
    let other: Vec<_> = outcomes(&vfs, CrashMode::Torn, "/other").into_iter().collect();
    assert!(other.len() >= 5);
    for content in other {
        let text = content.unwrap();
        let cut = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
        assert!(cut < 5 && b"three".starts_with(&text[..cut]));
        assert!(text[cut..].iter().all(|byte| *byte == 0));
    }
    let log = outcomes(&vfs, CrashMode::Torn, LOG);
    assert_eq!(log, [Some(b"onetwo".to_vec())].into(), "only the last write is torn");
}

#[test]
fn reordered_writes_are_whole() {
    let vfs = with_log(b"");
    put(&vfs, LOG, 0, b"aa", false);
    put(&vfs, LOG, 2, b"bb", false);
    let expected: [&[u8]; 4] = [b"", b"aa", b"\0\0bb", b"aabb"];
    assert_eq!(
        outcomes(&vfs, CrashMode::Reordered, LOG),
        expected.into_iter().map(|content| Some(content.to_vec())).collect()
    );
}

#[test]
fn names_of_one_directory_are_kept_in_order_and_others_apart() {
    let vfs = SimVfs::new(1);
    vfs.create_dir(Path::new("/a")).unwrap();
    vfs.create_dir(Path::new("/b")).unwrap();
    vfs.sync_dir(Path::new("/")).unwrap();
    for path in ["/a/1", "/a/2", "/b/1"] {
        vfs.create(Path::new(path)).unwrap();
    }
    let series = {
        let mut series = vfs.crash_series();
        series.advance_to(usize::MAX);
        series
    };
    let mut seen = BTreeSet::new();
    for seed in 0..200 {
        let image = series.image(CrashMode::Random, seed);
        let list = |path| image.read_dir(Path::new(path)).unwrap();
        seen.insert((list("/a").concat(), list("/b").concat()));
    }
    let expected = [("", ""), ("1", ""), ("12", ""), ("", "1"), ("1", "1"), ("12", "1")];
    assert_eq!(seen, expected.into_iter().map(|(a, b)| (a.to_string(), b.to_string())).collect());
}

#[test]
fn a_new_directory_needs_its_parent() {
    let vfs = SimVfs::new(1);
    vfs.create_dir(Path::new("/d")).unwrap();
    put(&vfs, "/d/f", 0, b"x", true);
    vfs.sync_dir(Path::new("/d")).unwrap();
    let image = vfs.crash_image(vfs.op_count(), CrashMode::DropAll, 0);
    assert!(!image.exists(Path::new("/d")).unwrap());
    vfs.sync_dir(Path::new("/")).unwrap();
    let image = vfs.crash_image(vfs.op_count(), CrashMode::DropAll, 0);
    assert_eq!(get(&image, "/d/f").unwrap(), b"x");
}

#[test]
fn a_rename_between_directories_has_one_outcome() {
    let vfs = SimVfs::new(1);
    vfs.create_dir(Path::new("/a")).unwrap();
    vfs.create_dir(Path::new("/b")).unwrap();
    put(&vfs, "/a/f", 0, b"x", true);
    vfs.sync_dir(Path::new("/")).unwrap();
    vfs.sync_dir(Path::new("/a")).unwrap();
    vfs.rename(Path::new("/a/f"), Path::new("/b/f")).unwrap();
    let mut moved = BTreeSet::new();
    for seed in 0..100 {
        let image = vfs.crash_image(vfs.op_count(), CrashMode::Reordered, seed);
        let there = get(&image, "/b/f").is_some();
        assert_ne!(there, get(&image, "/a/f").is_some(), "the file is in exactly one place");
        moved.insert(there);
    }
    assert_eq!(moved.len(), 2);
    vfs.sync_dir(Path::new("/b")).unwrap();
    let image = vfs.crash_image(vfs.op_count(), CrashMode::DropAll, 0);
    assert!(get(&image, "/b/f").is_some() && get(&image, "/a/f").is_none());
}

#[test]
fn a_renamed_file_has_only_its_synced_bytes() {
    let vfs = SimVfs::new(1);
    put(&vfs, "/temp", 0, b"synced", true);
    put(&vfs, "/temp", 6, b" or not", false);
    vfs.rename(Path::new("/temp"), Path::new("/final")).unwrap();
    vfs.sync_dir(Path::new("/")).unwrap();
    assert_eq!(outcomes(&vfs, CrashMode::DropAll, "/final"), [Some(b"synced".to_vec())].into());
    assert_eq!(outcomes(&vfs, CrashMode::DropAll, "/temp"), [None].into());
}

/// Commits a manifest as the engine does, with one step left out on demand.
fn commit(vfs: &SimVfs, sync_data: bool, sync_manifest: bool) {
    vfs.create_dir(Path::new("/db")).unwrap();
    vfs.sync_dir(Path::new("/")).unwrap();
    put(vfs, "/db/data", 0, &[7; 3000], sync_data);
    vfs.sync_dir(Path::new("/db")).unwrap();
    put(vfs, "/db/m.temp", 0, &[8; 600], sync_manifest);
    vfs.rename(Path::new("/db/m.temp"), Path::new("/db/m")).unwrap();
    vfs.sync_dir(Path::new("/db")).unwrap();
}

/// Whether some image has a manifest that is incomplete or names data that is.
fn some_image_is_bad(vfs: &SimVfs) -> bool {
    let mut series = vfs.crash_series();
    loop {
        for mode in CrashMode::ALL {
            for seed in 0..30 {
                let image = series.image(mode, seed);
                let data = get(&image, "/db/data");
                let bad = |manifest| manifest != vec![8; 600] || data != Some(vec![7; 3000]);
                if get(&image, "/db/m").is_some_and(bad) {
                    return true;
                }
            }
        }
        if !series.advance() {
            return false;
        }
    }
}

#[test]
fn the_order_of_a_commit_holds_and_each_missing_sync_shows() {
    for (sync_data, sync_manifest) in [(true, true), (false, true), (true, false)] {
        let vfs = SimVfs::new(1);
        commit(&vfs, sync_data, sync_manifest);
        assert_eq!(some_image_is_bad(&vfs), !(sync_data && sync_manifest));
    }
}

#[test]
fn a_failed_sync_never_makes_durable() {
    let vfs = with_log(b"one");
    let mut file = vfs.open_write(Path::new(LOG)).unwrap();
    file.write_at(3, b"two").unwrap();
    vfs.inject(Fault { op_kind: OpKind::Sync, nth: 0, error: FaultError::Eio, sticky: false });
    assert!(file.sync().is_err());
    file.write_at(6, b"three").unwrap();
    file.sync().unwrap();
    assert_eq!(get(&vfs, LOG).unwrap(), b"onetwothree", "readers see it all the while");
    assert_eq!(outcomes(&vfs, CrashMode::DropAll, LOG), [Some(b"one\0\0\0three".to_vec())].into());
}

#[test]
fn names_are_lost_after_a_failed_sync_until_their_directory_changes() {
    let vfs = with_log(b"one");
    let path = Path::new("/new");
    drop(vfs.create(path).unwrap());
    vfs.inject(Fault { op_kind: OpKind::SyncDir, nth: 0, error: FaultError::Eio, sticky: false });
    assert!(vfs.sync_dir(Path::new("/")).is_err());
    vfs.sync_dir(Path::new("/")).unwrap();
    assert!(vfs.exists(path).unwrap(), "it is seen all the while");
    assert_eq!(outcomes(&vfs, CrashMode::DropAll, "/new"), [None].into());
    drop(vfs.create(Path::new("/other")).unwrap());
    vfs.sync_dir(Path::new("/")).unwrap();
    assert_eq!(outcomes(&vfs, CrashMode::DropAll, "/new"), [Some(Vec::new())].into());
}

#[test]
fn faults_hit_the_call_they_name() {
    let vfs = with_log(b"");
    let mut file = vfs.open_write(Path::new(LOG)).unwrap();
    vfs.inject(Fault { op_kind: OpKind::Write, nth: 1, error: FaultError::ShortWrite, sticky: false });
    file.write_at(0, b"1234").unwrap();
    file.sync().unwrap();
    assert_eq!(io_kind(file.write_at(4, b"5678").unwrap_err()), io::ErrorKind::StorageFull);
    assert_eq!(get(&vfs, LOG).unwrap(), b"123456");
    file.write_at(4, b"5678").unwrap();
    assert_eq!(vfs.faults_fired(), 1);

    vfs.inject(Fault { op_kind: OpKind::Any, nth: 1, error: FaultError::Eio, sticky: true });
    assert!(vfs.exists(Path::new(LOG)).unwrap());
    let ops = vfs.op_count();
    let error = vfs.read(Path::new(LOG)).unwrap_err();
    assert_eq!(error.to_string(), "cannot read /log: Input/output error (os error 5)");
    assert!(vfs.create(Path::new("/new")).is_err());
    assert!(vfs.create_dir(Path::new("/dir")).is_err());
    assert!(vfs.rename(Path::new(LOG), Path::new("/new")).is_err());
    assert!(vfs.remove_file(Path::new(LOG)).is_err());
    assert_eq!(vfs.op_count(), ops, "nothing happened");
    assert!(vfs.sync_dir(Path::new("/")).is_err());
    vfs.clear_faults();
    vfs.remove_file(Path::new(LOG)).unwrap();
    assert_eq!(vfs.calls(OpKind::Remove), 2);
    assert!(vfs.calls(OpKind::Any) > 10);
}

#[test]
fn a_full_disk_takes_what_fits() {
    let vfs = with_log(b"1234");
    vfs.set_capacity(Some(6));
    let mut file = vfs.open_write(Path::new(LOG)).unwrap();
    let error = file.write_at(4, b"5678").unwrap_err();
    assert!(error.to_string().contains("No space left"), "{error}");
    assert_eq!(get(&vfs, LOG).unwrap(), b"123456");
    file.write_at(0, b"abcd").unwrap();
    vfs.set_capacity(Some(8));
    file.write_at(4, b"5678").unwrap();
    assert_eq!(vfs.used(), 8);
    vfs.remove_file(Path::new(LOG)).unwrap();
    assert_eq!(vfs.used(), 0);
}

#[test]
fn an_absurd_offset_is_an_error() {
    let vfs = with_log(b"");
    let mut file = vfs.open_write(Path::new(LOG)).unwrap();
    assert_eq!(io_kind(file.write_at(u64::MAX, b"x").unwrap_err()), io::ErrorKind::FileTooLarge);
}

#[test]
fn images_are_independent_and_can_crash_again() {
    let vfs = with_log(b"one");
    put(&vfs, LOG, 3, b"two", true);
    let lock = vfs.try_lock(Path::new(LOG)).unwrap();
    assert!(lock.is_some());
    let image = vfs.crash_image(vfs.op_count(), CrashMode::Random, 9);
    assert!(!image.is_locked(Path::new(LOG)).unwrap(), "a crash releases locks");
    put(&image, LOG, 0, b"ONE", false);
    assert_eq!(get(&vfs, LOG).unwrap(), b"onetwo");
    assert_eq!(get(&image.crash_image(1, CrashMode::DropAll, 0), LOG).unwrap(), b"onetwo");
    assert_eq!(get(&image.crash_image(1, CrashMode::KillOnly, 0), LOG).unwrap(), b"ONEtwo");
    let copy = image.live_copy();
    assert_eq!(get(&copy.crash_image(0, CrashMode::DropAll, 0), LOG).unwrap(), b"ONEtwo");
}

#[test]
fn a_tree_is_removed_entry_by_entry() {
    let vfs = SimVfs::new(1);
    vfs.create_dir(Path::new("/d")).unwrap();
    vfs.create_dir(Path::new("/d/e")).unwrap();
    put(&vfs, "/d/e/f", 0, b"x", true);
    let before = vfs.op_count();
    vfs.remove_dir_all(Path::new("/d")).unwrap();
    let texts: Vec<String> = (before..vfs.op_count()).filter_map(|op| vfs.op_text(op)).collect();
    assert_eq!(texts, ["remove /d/e/f", "remove /d/e", "remove /d"]);
}

#[test]
fn the_same_seed_gives_the_same_disk() {
    let run = |seed| {
        let vfs = SimVfs::new(seed);
        let name = format!("/{:x}", vfs.random());
        put(&vfs, &name, 0, &[1; 5000], false);
        vfs.sync_dir(Path::new("/")).unwrap();
        let image = vfs.crash_image(vfs.op_count(), CrashMode::Random, seed);
        (get(&image, &name), image.random(), image.now_ms(), name)
    };
    assert_eq!(run(5), run(5));
    assert_ne!(run(5), run(6));
    let vfs = SimVfs::new(0);
    let (first, second) = (vfs.now_ms(), vfs.now_ms());
    vfs.advance_clock(1000);
    assert!(first < second && vfs.now_ms() > second + 1000);
}

#[test]
fn a_thousand_operations_give_images_quickly() {
    let vfs = with_log(b"");
    let mut file = vfs.open_write(Path::new(LOG)).unwrap();
    for i in 0..1000u64 {
        file.write_at(1000 * i, &[i as u8; 1000]).unwrap();
        if i % 3 == 0 {
            file.sync().unwrap();
        }
    }
    let mut series = vfs.crash_series();
    let start = std::time::Instant::now();
    let (mut images, mut bytes) = (0u32, 0u64);
    while series.advance() {
        for mode in CrashMode::ALL {
            bytes += series.image(mode, 3).used();
            images += 1;
        }
    }
    let took = start.elapsed();
    eprintln!("{images} images, {bytes} bytes in {took:?}: {:?} each", took / images);
    assert!(images > 6000 && bytes > u64::from(images) * 100_000);
    assert!(took.as_secs() < 60);
}
