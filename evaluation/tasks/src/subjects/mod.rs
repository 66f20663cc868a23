//! The subjects of the benchmarks of exam questions, and their categories.

mod ceval;
mod cmmlu;
mod mmlu;

/// A subject.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Name {
    /// As in the names of the benchmark's files.
    pub(crate) file: &'static str,
    /// As in prompts.
    pub(crate) title: &'static str,
}

/// A category.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Category {
    /// As in the report's tables.
    pub(crate) name: &'static str,
    /// Its subjects, as in the names of files.
    pub(crate) subjects: &'static [&'static str],
}

/// All subjects of a benchmark.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Subjects {
    /// In the order of the report.
    pub(crate) names: &'static [Name],
    /// In the order of the tables.
    pub(crate) categories: &'static [Category],
}

/// MMLU: 57 subjects in four categories.
pub(crate) const MMLU: Subjects = Subjects { names: &mmlu::SUBJECTS, categories: &mmlu::CATEGORIES };
/// C-Eval: 52 subjects in four categories, and the eight hard ones.
pub(crate) const CEVAL: Subjects = Subjects { names: &ceval::SUBJECTS, categories: &ceval::CATEGORIES };
/// CMMLU: 67 subjects in five categories, which overlap.
pub(crate) const CMMLU: Subjects = Subjects { names: &cmmlu::SUBJECTS, categories: &cmmlu::CATEGORIES };

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn sizes(subjects: Subjects) -> Vec<usize> {
        subjects.categories.iter().map(|category| category.subjects.len()).collect()
    }

    /// Sizes: Hendrycks et al. 2021, table of tasks; the C-Eval and CMMLU papers.
    #[test]
    fn categories_have_the_published_sizes_and_cover_every_subject() {
        assert_eq!((MMLU.names.len(), sizes(MMLU)), (57, vec![19, 12, 13, 13]));
        assert_eq!((CEVAL.names.len(), sizes(CEVAL)), (52, vec![8, 20, 10, 11, 11]));
        assert_eq!((CMMLU.names.len(), sizes(CMMLU)), (67, vec![17, 13, 22, 15, 15]));
        for subjects in [MMLU, CEVAL, CMMLU] {
            let names: BTreeSet<&str> = subjects.names.iter().map(|name| name.file).collect();
            let in_categories: BTreeSet<&str> =
                subjects.categories.iter().flat_map(|category| category.subjects.iter().copied()).collect();
            assert_eq!((names.len(), &names), (subjects.names.len(), &in_categories));
        }
    }
}
