//! Metadata columns: any bytes as sections; each read fails or gives something.
#![no_main]

use std::ops::Range;

use embdb::Error;
use embdb::format::attrs::{AttrsView, Sections};
use embdb::storage::vfs::Bytes;

/// Sections cut out of one input, each as long as the bytes before it say.
struct Cut(Vec<Bytes>);

impl Sections for Cut {
    fn size(&self, section: u32) -> usize {
        self.0.get(section as usize).map_or(0, |bytes| bytes.len())
    }

    fn bytes(&self, section: u32, range: Range<usize>) -> embdb::Result<&[u8]> {
        let found = self.0.get(section as usize).and_then(|bytes| bytes.get(range));
        found.ok_or_else(|| Error::corrupt("attrs", 0, "outside"))
    }
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut rest = data;
    let mut sections = vec![Bytes::from(&[][..])];
    while let Some((&[low, high], after)) = rest.split_first_chunk() {
        let (section, after) = after.split_at(after.len().min(u16::from_le_bytes([low, high]) as usize));
        sections.push(Bytes::from(section));
        rest = after;
    }
    let cut = Cut(sections);
    let view = AttrsView::new(&cut);
    let sound = view.check(1000).is_ok();
    for key in view.keys().unwrap_or_default() {
        if let Ok(Some(column)) = view.column(key) {
            let read = column.for_each(&mut |_, _| ());
            assert!(read.is_ok() || !sound);
        }
    }
});
