//! The same tests with each level of kernels, chosen as a host chooses it.

use std::io::Write;

use llmserve::model::{DType, Kernels};

/// Every way to store weights.
pub const DTYPES: [DType; 4] = DType::ALL;

/// Runs `test` at a level, or says why not.
pub fn at(kernels: Kernels, test: fn(Kernels)) {
    if Kernels::available().contains(&kernels) {
        test(kernels);
    } else {
        // Straight to the terminal: the harness shows nothing that a passing test prints.
        let why = format!("\nSKIPPED: this CPU lacks the instructions of {kernels}\n");
        let _ = std::io::stderr().write_all(why.as_bytes());
    }
}

/// Makes tests of functions that take [`Kernels`]: a module for each level, so that a name says
/// which level fails.
#[allow(unused_macros)]
macro_rules! at_every_level {
    ($($test:ident),+ $(,)?) => {
        $crate::support::levels::at_every_level!(@levels [
            portable Portable, avx2 Avx2, avx512 Avx512, avx512vnni Avx512Vnni,
            avx512bf16 Avx512Bf16,
        ] [$($test)+]);
    };
    (@levels [$($module:ident $level:ident),+ $(,)?] $tests:tt) => {
        $($crate::support::levels::at_every_level!(@level $module $level $tests);)+

        /// A level that is new must be in the list.
        #[test]
        fn the_levels_are_all_here() {
            let here = [$(llmserve::model::Kernels::$level),+];
            for kernels in llmserve::model::Kernels::available() {
                assert!(here.contains(&kernels), "{kernels} is not tested");
            }
        }
    };
    (@level $module:ident $level:ident [$($test:ident)+]) => {
        mod $module {
            $(
                #[test]
                fn $test() {
                    $crate::support::levels::at(llmserve::model::Kernels::$level, super::$test);
                }
            )+
        }
    };
}

#[allow(unused_imports)]
pub(crate) use at_every_level;
