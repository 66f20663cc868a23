//! Python's random samples, which lm-evaluation-harness draws worked examples with.

use rand_mt::Mt;

/// The default seed of lm-evaluation-harness for worked examples.
pub(crate) const SEED: u32 = 1234;

/// The generator of Python's `random.Random(seed)`.
pub(crate) struct PythonRandom(Mt);

impl PythonRandom {
    /// As `random.Random(seed)` for a seed of 32 bits: the Mersenne Twister, initialised from an array.
    pub(crate) fn new(seed: u32) -> Self {
        Self(Mt::new_with_key([seed]))
    }

    /// As `sample(range(population), num)`, Python 3.11 and later. It is a set of indices that grows, or a
    /// shrinking pool when the population is small.
    ///
    /// # Panics
    /// When `num` exceeds the population.
    pub(crate) fn sample(&mut self, population: usize, num: usize) -> Vec<usize> {
        assert!(num <= population, "a sample of {num} out of {population}");
        // The memory of a set of `num` elements, with which that of the pool is compared.
        let set_size = 21 + if num > 5 { 4_usize.pow(((num * 3) as f64).log(4.0).ceil() as u32) } else { 0 };
        if population <= set_size {
            let mut pool: Vec<usize> = (0..population).collect();
            return (0..num).map(|drawn| pool.swap_remove(self.below(population - drawn))).collect();
        }
        let mut drawn = Vec::with_capacity(num);
        while drawn.len() < num {
            let index = self.below(population);
            if !drawn.contains(&index) {
                drawn.push(index);
            }
        }
        drawn
    }

    /// A number below `limit`: the topmost bits of 32, drawn again when they are not below.
    fn below(&mut self, limit: usize) -> usize {
        let bits = usize::BITS - limit.leading_zeros();
        loop {
            let number = (self.0.next_u32() >> (32 - bits)) as usize;
            if number < limit {
                return number;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Expected: CPython 3.11, `r = random.Random(1234)`, then the samples in this order.
    #[test]
    fn samples_equal_those_of_cpython() {
        let mut random = PythonRandom::new(1234);
        assert_eq!(random.sample(7473, 5), [6374, 3610, 957, 61, 742]);
        assert_eq!(random.sample(7473, 5), [7462, 6610, 4769, 286, 5501]);
        assert_eq!(random.sample(10, 3), [1, 9, 5]);
        assert_eq!(random.sample(21, 5), [7, 0, 19, 18, 11]);
        assert_eq!(random.sample(22, 5), [20, 19, 15, 14, 4]);
        assert_eq!(random.sample(300, 8), [46, 93, 58, 7, 257, 249, 127, 33]);
        assert_eq!(random.sample(84, 6), [69, 59, 8, 76, 11, 65]);
        assert_eq!(random.sample(86, 6), [74, 5, 34, 71, 8, 82]);
        assert_eq!(
            random.sample(7473, 40),
            [
                2477, 3940, 6964, 2910, 2182, 2041, 5369, 1638, 3714, 7180, 4343, 5451, 158, 4162, 578, 47, 2732, 1177,
                5816, 3873, 5385, 3091, 1368, 443, 624, 4813, 4067, 1343, 617, 4565, 1762, 1181, 222, 2836, 6315, 908,
                4339, 1156, 5492, 2501
            ]
        );
        assert_eq!(random.sample(1, 1), [0]);
        assert_eq!(random.sample(1048576, 3), [83025, 872941, 580457]);
        assert_eq!(random.sample(5, 0), [0; 0]);
    }
}
