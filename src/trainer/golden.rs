//! Golden-section search (Kiefer: Sequential Minimax Search for a Maximum, 1953).

/// Each step leaves .618 of the range: 32 of them, a five-millionth.
const STEPS: usize = 32;
const SHARE: f64 = 0.618_033_988_749_894_9;

/// Where in a range a function with one hump is highest.
pub(super) fn highest([mut low, mut high]: [f64; 2], of: impl Fn(f64) -> f64) -> f64 {
    for _ in 0..STEPS {
        let (left, right) = (high - SHARE * (high - low), low + SHARE * (high - low));
        if of(left) > of(right) { high = right } else { low = left }
    }
    (low + high) / 2.0
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_top_is_found_within_and_at_the_ends() {
        for top in [-1.0, 0.3, 4.0] {
            assert!((super::highest([-1.0, 4.0], |x| -(x - top).powi(2)) - top).abs() < 1e-5);
        }
    }
}
