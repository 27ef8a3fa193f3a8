//! Counts of bits: an instruction of its own for eight words in AVX-512, one for each word before.

use std::arch::x86_64::*;

use crate::kernel::bits::{BitQuery, LANES, Lanes, dot_bits};

#[target_feature(enable = "popcnt,avx2")]
pub(super) fn dot_bits_avx2(query: &BitQuery, rows: &[Lanes], out: &mut [i32]) {
    dot_bits(query, rows, out);
}

#[target_feature(enable = "avx512f,avx512vpopcntdq")]
pub(super) fn dot_bits_avx512(query: &BitQuery, rows: &[Lanes], out: &mut [i32]) {
    let groups = rows.chunks_exact(query.words().max(1));
    for (group, out) in groups.zip(out.chunks_mut(LANES)) {
        let (mut met, mut ones) = ([_mm512_setzero_si512(); 4], _mm512_setzero_si512());
        for (query, lanes) in query.planes().iter().zip(group) {
            // SAFETY: the lanes are 64 bytes; the load needs no alignment.
            let lanes = unsafe { _mm512_loadu_si512(lanes.as_ptr().cast()) };
            ones = _mm512_add_epi64(ones, _mm512_popcnt_epi64(lanes));
            for (met, &plane) in met.iter_mut().zip(query) {
                let both = _mm512_and_si512(lanes, _mm512_set1_epi64(plane as i64));
                *met = _mm512_add_epi64(*met, _mm512_popcnt_epi64(both));
            }
        }
        let [a, b, c, d] = met;
        let weighted = _mm512_add_epi64(
            _mm512_add_epi64(_mm512_slli_epi64::<1>(a), _mm512_slli_epi64::<2>(b)),
            _mm512_add_epi64(_mm512_slli_epi64::<3>(c), _mm512_slli_epi64::<4>(d)),
        );
        // Fifteen ones are sixteen less one.
        let ones = _mm512_sub_epi64(_mm512_slli_epi64::<4>(ones), ones);
        let products = _mm512_cvtepi64_epi32(_mm512_sub_epi64(weighted, ones));
        let mut eight = [0; LANES];
        // SAFETY: eight integers of four bytes are the 32 that are stored.
        unsafe { _mm256_storeu_si256(eight.as_mut_ptr().cast(), products) };
        match out.first_chunk_mut() {
            Some(out) => *out = eight,
            None => out.iter_mut().zip(eight).for_each(|(out, product)| *out = product),
        }
    }
}
