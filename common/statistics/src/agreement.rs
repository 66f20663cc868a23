//! Agreement of annotators: Krippendorff's α, Fleiss' κ, and the share of pairs of annotators that agree.

/// How far apart two values are, for [`Coincidences::alpha`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metric {
    /// 1 for different values.
    Nominal,
    /// By the number of values in between: (Σ n_g from c to k − (n_c + n_k) / 2)².
    Ordinal,
    /// (c − k)².
    Interval,
    /// ((c − k) / (c + k))², for values that are not negative.
    Ratio,
}

/// The coincidence matrix of units with several values: for each ordered pair of values of a unit with m
/// values, 1 / (m − 1). Units with fewer than two values contribute nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct Coincidences {
    /// (V) The distinct values, ascending.
    values: Vec<f64>,
    /// (V, V) The coincidences.
    counts: Vec<f64>,
}

impl Coincidences {
    /// An empty matrix of these values.
    ///
    /// # Panics
    /// When a value is not finite.
    pub fn new(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        assert!(values.iter().all(|value| value.is_finite()), "values are finite");
        values.sort_by(f64::total_cmp);
        values.dedup();
        let counts = vec![0.0; values.len() * values.len()];
        Self { values, counts }
    }

    /// The matrix of all units.
    pub fn of_units<U: AsRef<[f64]>>(units: &[U]) -> Self {
        let mut all = Self::new(units.iter().flat_map(|unit| unit.as_ref().iter().copied()));
        units.iter().for_each(|unit| all.add_unit(unit.as_ref()));
        all
    }

    /// Adds the values of a unit.
    ///
    /// # Panics
    /// When a value is not one of the matrix's.
    pub fn add_unit(&mut self, unit: &[f64]) {
        if unit.len() < 2 {
            return;
        }
        let index = |value: &f64| {
            let found = self.values.iter().position(|other| other == value);
            found.expect("the matrix has every value")
        };
        let indices: Vec<usize> = unit.iter().map(index).collect();
        let weight = 1.0 / (unit.len() - 1) as f64;
        for (at, &first) in indices.iter().enumerate() {
            for (other, &second) in indices.iter().enumerate() {
                if at != other {
                    self.counts[first * self.values.len() + second] += weight;
                }
            }
        }
    }

    /// Adds a matrix of the same values `weight` times.
    ///
    /// # Panics
    /// When the values differ.
    pub fn add(&mut self, other: &Self, weight: f64) {
        assert_eq!(self.values, other.values, "matrices of the same values");
        self.counts.iter_mut().zip(&other.counts).for_each(|(count, more)| *count += weight * more);
    }

    /// Krippendorff's α = 1 − observed / expected disagreement: 1 is perfect agreement, 0 that of chance.
    /// `None` without two comparable values, or when all of them are equal: then nothing is expected to
    /// differ.
    ///
    /// α = 1 − (n − 1) Σ o_ck δ²_ck / Σ n_c n_k δ²_ck, where n_c = Σ_k o_ck and n = Σ_c n_c.
    ///
    /// Source: K. Krippendorff, "Computing Krippendorff's alpha-reliability" (2011).
    pub fn alpha(&self, metric: Metric) -> Option<f64> {
        let size = self.values.len();
        let totals: Vec<f64> = (0..size).map(|row| self.counts[row * size..][..size].iter().sum()).collect();
        let all: f64 = totals.iter().sum();
        let (mut observed, mut expected) = (0.0, 0.0);
        for first in 0..size {
            let mut between = totals[first];
            for second in first + 1..size {
                between += totals[second];
                let distance = match metric {
                    Metric::Nominal => 1.0,
                    Metric::Ordinal => between - (totals[first] + totals[second]) / 2.0,
                    Metric::Interval => self.values[second] - self.values[first],
                    Metric::Ratio => {
                        (self.values[second] - self.values[first]) / (self.values[second] + self.values[first])
                    }
                };
                let squared = distance * distance;
                observed += (self.counts[first * size + second] + self.counts[second * size + first]) / 2.0 * squared;
                expected += totals[first] * totals[second] * squared;
            }
        }
        (expected > 0.0).then(|| 1.0 - (all - 1.0) * observed / expected)
    }
}

/// Krippendorff's α of units, each with the values that it was given. See [`Coincidences::alpha`].
pub fn krippendorff_alpha<U: AsRef<[f64]>>(units: &[U], metric: Metric) -> Option<f64> {
    Coincidences::of_units(units).alpha(metric)
}

/// What Fleiss' κ is computed from. All units have the same number of annotators.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct FleissSums {
    annotators: u32,
    units: f64,
    /// Ordered pairs of annotators that agree.
    agreeing: f64,
    /// (C) How often each category was chosen.
    totals: Vec<f64>,
}

impl FleissSums {
    /// The sums of a table: for each unit, how many annotators chose each category. `None` without a unit, or
    /// unless all of them have the same number of annotators, at least two.
    pub fn of_table<U: AsRef<[u32]>>(table: &[U]) -> Option<Self> {
        let annotators = table.first()?.as_ref().iter().sum::<u32>();
        let has_as_many = |unit: &U| unit.as_ref().iter().sum::<u32>() == annotators;
        if annotators < 2 || !table.iter().all(has_as_many) {
            return None;
        }
        let categories = table.iter().map(|unit| unit.as_ref().len()).max()?;
        let mut sums = Self { annotators, units: table.len() as f64, agreeing: 0.0, totals: vec![0.0; categories] };
        for unit in table {
            for (total, &count) in sums.totals.iter_mut().zip(unit.as_ref()) {
                *total += f64::from(count);
                sums.agreeing += f64::from(count) * (f64::from(count) - 1.0);
            }
        }
        Some(sums)
    }

    /// Adds other units `weight` times.
    ///
    /// # Panics
    /// When they have another number of annotators.
    pub fn add(&mut self, other: &Self, weight: f64) {
        assert!(self.units == 0.0 || self.annotators == other.annotators, "as many annotators everywhere");
        self.annotators = other.annotators;
        self.units += weight * other.units;
        self.agreeing += weight * other.agreeing;
        self.totals.resize(self.totals.len().max(other.totals.len()), 0.0);
        self.totals.iter_mut().zip(&other.totals).for_each(|(total, more)| *total += weight * more);
    }

    /// Fleiss' κ = (P − E) / (1 − E), with P the mean share of agreeing pairs in a unit, and E = Σ pⱼ² over
    /// the shares of the categories. `None` if only one category was chosen.
    ///
    /// Source: J. L. Fleiss, "Measuring nominal scale agreement among many raters", Psychological Bulletin 76
    /// (1971).
    pub fn kappa(&self) -> Option<f64> {
        let ratings = self.units * f64::from(self.annotators);
        let observed = self.agreeing / (ratings * (f64::from(self.annotators) - 1.0));
        let expected: f64 = self.totals.iter().map(|total| (total / ratings).powi(2)).sum();
        (expected < 1.0).then(|| (observed - expected) / (1.0 - expected))
    }
}

/// Fleiss' κ of a table. See [`FleissSums`].
pub fn fleiss_kappa<U: AsRef<[u32]>>(table: &[U]) -> Option<f64> {
    FleissSums::of_table(table)?.kappa()
}

/// How many pairs of values of a unit are equal, and how many there are.
pub fn agreeing_pairs<T: PartialEq>(unit: &[T]) -> (u64, u64) {
    let pairs = (0..unit.len()).flat_map(|second| (0..second).map(move |first| (first, second)));
    pairs.fold((0, 0), |(agreeing, all), (first, second)| (agreeing + u64::from(unit[first] == unit[second]), all + 1))
}

/// The share of equal pairs of values of the same unit, over all units; `None` without a pair.
pub fn pairwise_agreement<T: PartialEq, U: AsRef<[T]>>(units: &[U]) -> Option<f64> {
    let counts = units.iter().map(|unit| agreeing_pairs(unit.as_ref()));
    let (agreeing, all) = counts.fold((0, 0), |sum, unit| (sum.0 + unit.0, sum.1 + unit.1));
    (all > 0).then(|| agreeing as f64 / all as f64)
}
