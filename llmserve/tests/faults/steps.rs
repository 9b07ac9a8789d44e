//! Steps that fail.

use std::sync::Arc;

use llmserve::ModelError;
use llmserve::prelude::*;

use super::support::{EOS, PageModel, Sizes, VOCAB, drained, engine, hash_logits};

#[test]
fn a_failing_step_fails_its_requests_alone_and_leaves_nothing_cached() {
    // The model fails whenever a context holds the token 60.
    let model = PageModel::new(Arc::new(|context, logits| {
        if context.contains(&60) {
            return Err(ModelError::Backend("sixty".into()));
        }
        hash_logits(context, logits);
        logits[60] = f32::NEG_INFINITY;
        Ok(())
    }));
    let engine = engine(model, Sizes::default());
    let poison: Vec<u32> = (0..40)
        .map(|i| if i == 35 { 60 } else { 2 + i % 50 })
        .collect();
    let error = engine.generate(Request::tokens(poison)).wait().unwrap_err();
    assert!(
        matches!(&error, Error::Model(ModelError::Backend(text)) if text == "sixty"),
        "{error}"
    );
    // The same first blocks without the poison: nothing of the failed step may be hit.
    let clean: Vec<u32> = (0..40).map(|i| 2 + i % 50).collect();
    let response = engine
        .generate(Request::tokens(clean).max_tokens(4))
        .wait()
        .unwrap();
    assert_eq!(response.choices[0].usage.cached_tokens, 0);
    drained(&engine);
    assert_eq!(engine.stats().failed_requests, 1);
}

#[test]
fn nan_logits_fail_their_request_alone() {
    let model = PageModel::new(Arc::new(|context, logits| {
        hash_logits(context, logits);
        logits[EOS as usize] = f32::NEG_INFINITY;
        if context[0] == 61 && context.len() > 5 {
            logits[3] = f32::NAN;
        }
        Ok(())
    }));
    let engine = engine(model, Sizes::default());
    let healthy = engine.generate(Request::tokens([5, 6, 7]).max_tokens(50));
    let sick = engine.generate(Request::tokens([61, 6, 7]).max_tokens(50));
    let error = sick.wait().unwrap_err();
    assert!(
        matches!(error, Error::NonFiniteLogits { token: 3, .. }),
        "{error}"
    );
    assert_eq!(healthy.wait().unwrap().ids().len(), 50);
    drained(&engine);
}

#[test]
fn a_model_that_fails_after_submission_fails_that_step_alone() {
    use llmserve::{
        Batch, KvGroupSpec, KvLayout, Logits, Model, ModelInfo, PageStore, StepLimits, Survey,
    };
    #[derive(Clone, Copy, PartialEq)]
    enum Fault {
        SurveyFails,
        SurveyPanics,
        ShortSurvey,
        LongSurvey,
        HighSurvey,
        LowSurvey,
        RowFails,
        RowPanics,
        DropPanics,
        ShortRow,
        LongRow,
        TooFewRows,
    }
    /// The page model, whose logits go wrong where a sequence begins with token 50.
    struct Faulty(PageModel, Fault, ModelInfo);
    struct Wrong(Box<dyn Logits>, Fault, Vec<f32>);
    impl Logits for Wrong {
        fn rows(&self) -> usize {
            if self.1 == Fault::TooFewRows {
                0
            } else {
                self.0.rows()
            }
        }
        fn row(&mut self, index: usize) -> Result<&[f32], ModelError> {
            match self.1 {
                Fault::RowFails => Err(ModelError::Backend("late".into())),
                Fault::RowPanics => panic!("late"),
                Fault::ShortRow | Fault::LongRow => Ok(&self.2),
                _ => self.0.row(index),
            }
        }
        fn survey(&mut self, index: usize, survey: &mut Survey) -> Result<(), ModelError> {
            survey.take(self.0.row(index)?);
            let mut greatest = survey.greatest().to_vec();
            match self.1 {
                Fault::SurveyFails => return Err(ModelError::Backend("late".into())),
                Fault::SurveyPanics => panic!("late"),
                Fault::ShortSurvey => greatest.clear(),
                Fault::LongSurvey => greatest.push(0.0),
                Fault::HighSurvey => greatest[0] += 1.0,
                Fault::LowSurvey => greatest[0] -= 0.1,
                _ => {}
            }
            survey.fill(&greatest, true);
            Ok(())
        }
    }
    impl Drop for Wrong {
        fn drop(&mut self) {
            assert!(self.1 != Fault::DropPanics, "late");
        }
    }
    impl Model for Faulty {
        fn info(&self) -> &ModelInfo {
            &self.2
        }
        fn prepare(&mut self, layout: &KvLayout, limits: StepLimits) -> Result<(), ModelError> {
            self.0.prepare(layout, limits)
        }
        fn submit(&mut self, batch: &Batch<'_>) -> Result<Box<dyn Logits>, ModelError> {
            let poisoned = batch.tokens.contains(&50);
            let logits = self.0.submit(batch)?;
            let row = vec![
                0.0;
                if self.1 == Fault::LongRow {
                    VOCAB + 8
                } else {
                    VOCAB - 8
                }
            ];
            Ok(if poisoned {
                Box::new(Wrong(logits, self.1, row))
            } else {
                logits
            })
        }
        fn pages(&mut self) -> &mut dyn PageStore {
            self.0.pages()
        }
    }
    for fault in [
        Fault::SurveyFails,
        Fault::SurveyPanics,
        Fault::ShortSurvey,
        Fault::LongSurvey,
        Fault::HighSurvey,
        Fault::LowSurvey,
        Fault::RowFails,
        Fault::RowPanics,
        Fault::DropPanics,
        Fault::ShortRow,
        Fault::LongRow,
        Fault::TooFewRows,
    ] {
        let info = ModelInfo::new("faulty", VOCAB, 1024, KvGroupSpec::full(8, "tokens"));
        let model = Faulty(PageModel::hashing(), fault, info);
        let engine = engine(model, Sizes::default());
        let poisoned: Vec<u32> = (0..40)
            .map(|i| if i == 39 { 50 } else { 2 + i % 40 })
            .collect();
        let error = engine
            .generate(Request::tokens(poisoned.clone()))
            .wait()
            .unwrap_err();
        assert!(
            matches!(
                error,
                Error::Model(_) | Error::Panicked { part: "model", .. }
            ),
            "{error}"
        );
        // Nothing the failed step wrote can be hit, and the engine goes on.
        let clean = Request::tokens(&poisoned[..39]).max_tokens(1);
        let response = engine.generate(clean).wait().unwrap();
        assert_eq!(response.choices[0].usage.cached_tokens, 0);
        drained(&engine);
    }
}
