//! A GGUF file: whole, or the small generator with a part of its header replaced, which loads and writes, or is refused.
//!
//! The tokenizers crate and candle panic at hostile files, which the generator catches and turns into an error. libFuzzer's
//! hook would end the process at the panic itself, so it is replaced; a panic that nobody catches still ends it.
#![no_main]

use std::panic::{self, PanicHookInfo};

use embdb::encoder::generator::gguf::Header;
use embdb::encoder::generator::{Generator, Sampling};

const TINY: &[u8] = include_bytes!("../../../tests/fixtures/generator/tiny.gguf");

fn catchable(info: &PanicHookInfo<'_>) {
    let foreign = |file: &str| file.contains("/tokenizers-") || file.contains("/candle-");
    if !info.location().is_some_and(|at| foreign(at.file())) {
        eprintln!("{info}");
    }
}

libfuzzer_sys::fuzz_target!(init: panic::set_hook(Box::new(catchable)), |data: &[u8]| {
    // Only the bytes themselves: what stands in a message is no concern.
    Header::read("file", data).ok();
    let Some((at, rest)) = data.split_first_chunk::<2>() else { return };
    let at = usize::from(u16::from_le_bytes(*at));
    let mut bytes = TINY.to_vec();
    for (to, from) in bytes.iter_mut().skip(at).zip(rest) {
        *to = *from;
    }
    if let Ok(generator) = Generator::from_bytes("file", bytes, None)
        && let Ok(beginning) = generator.begin("x", &[])
    {
        let sampling = Sampling { tokens: 2, ..Sampling::default() };
        beginning.answer("y", &sampling, || 0.5).ok();
    }
});
