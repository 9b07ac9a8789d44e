//! As hard as what resembles it.

use llmserve_core::Request;

use super::{ComplexityError, Estimator, asked, check};

/// Examples that have a say in one guess.
const DEFAULT_NEIGHBOURS: usize = 5;

type Embed = dyn Fn(&str) -> Vec<f32> + Send + Sync;

/// By examples that a host has judged: the mean of the nearest few, by the angle between
/// embeddings, the nearer counting for more.
///
/// The embedding is the host's: a small model, or any function from a text to numbers. It runs on
/// the thread that calls `generate()`. Of a conversation, what the user said last is embedded; at
/// most 8 KiB. A request without text, or whose embedding has another length or no direction,
/// cannot be judged.
///
/// ```
/// use llmserve_core::Request;
/// use llmserve_route::tiers::{ByExamples, Estimator};
/// let embed = |text: &str| vec![text.len() as f32, text.matches('?').count() as f32];
/// let examples = ByExamples::new(embed, [("Hi there", 0.0), ("????", 1.0)])?.neighbours(1);
/// assert_eq!(examples.estimate(&Request::text("Good morning!")), Some(0.0));
/// assert_eq!(examples.estimate(&Request::text("Why???")), Some(1.0));
/// # Ok::<(), llmserve_route::tiers::ComplexityError>(())
/// ```
pub struct ByExamples {
    embed: Box<Embed>,
    examples: Vec<(Vec<f32>, f32)>,
    neighbours: usize,
}

impl ByExamples {
    /// Texts and how hard they are, embedded here and now.
    ///
    /// # Errors
    /// No examples, a complexity that is none, or embeddings that do not compare.
    pub fn new<'a>(
        embed: impl Fn(&str) -> Vec<f32> + Send + Sync + 'static,
        examples: impl IntoIterator<Item = (&'a str, f32)>,
    ) -> Result<Self, ComplexityError> {
        let mut of: Vec<(Vec<f32>, f32)> = Vec::new();
        for (example, (text, complexity)) in examples.into_iter().enumerate() {
            check(&format!("example {example}"), complexity)?;
            let embedding = embed(text);
            let first = of.first().map_or(embedding.len(), |(first, _)| first.len());
            if embedding.len() != first {
                return Err(ComplexityError::Dimensions {
                    example,
                    dimensions: embedding.len(),
                    first,
                });
            }
            let embedding = direction(embedding).ok_or(ComplexityError::NoDirection { example })?;
            of.push((embedding, complexity));
        }
        if of.is_empty() {
            return Err(ComplexityError::Nothing { what: "examples" });
        }
        Ok(Self {
            embed: Box::new(embed),
            examples: of,
            neighbours: DEFAULT_NEIGHBOURS,
        })
    }

    /// How many of the nearest examples count; 0 is taken as 1. Default: 5.
    pub fn neighbours(mut self, examples: usize) -> Self {
        self.neighbours = examples.max(1);
        self
    }
}

/// The embedding at length 1.
fn direction(mut embedding: Vec<f32>) -> Option<Vec<f32>> {
    let length = embedding
        .iter()
        .map(|x| f64::from(*x).powi(2))
        .sum::<f64>()
        .sqrt();
    if !(length > 0.0 && length.is_finite()) {
        return None;
    }
    for x in &mut embedding {
        *x = (f64::from(*x) / length) as f32;
    }
    Some(embedding)
}

impl Estimator for ByExamples {
    fn estimate(&self, request: &Request) -> Option<f32> {
        let asked = direction((self.embed)(asked(request)?))?;
        if asked.len() != self.examples[0].0.len() {
            return None;
        }
        // Similarity from 0 to 2, so that it can weigh.
        let near = |example: &[f32]| {
            let cosine: f32 = example.iter().zip(&asked).map(|(a, b)| a * b).sum();
            (1.0 + cosine).max(0.0)
        };
        let examples = self.examples.iter();
        let mut near: Vec<(f32, f32)> = examples.map(|(of, judged)| (near(of), *judged)).collect();
        near.sort_by(|(a, _), (b, _)| b.total_cmp(a));
        near.truncate(self.neighbours);
        let weight: f32 = near.iter().map(|(near, _)| near).sum();
        let sum: f32 = near.iter().map(|(near, judged)| near * judged).sum();
        (weight > 0.0).then(|| sum / weight)
    }
}

impl std::fmt::Debug for ByExamples {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ByExamples")
            .field("examples", &self.examples.len())
            .field("neighbours", &self.neighbours)
            .finish_non_exhaustive()
    }
}
