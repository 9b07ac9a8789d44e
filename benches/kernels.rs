//! Every kernel by itself, in GB/s and GFLOP/s, against the ceilings of the same run.
//!
//! Shapes are those of a layer and of the head of a model. `ceiling_share` is the least time that
//! the machine allows, over the time it took; `bound` says whether reading or arithmetic sets it.
//! Weights, keys and values come from memory, as in a step; the rows that are converted come from a
//! cache, and so their share may exceed 1. `rows` are rows of a product, and new tokens of
//! attention.

use std::error::Error;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use llmserve::model::measure::{AttentionShape, KernelBench, ProductShape, Sample};
use llmserve::model::{Ceiling, DType, Kernels, LoadError, physical_cores};
use llmserve_benches::{Format, Report, Shape};

/// Each kernel against the machine's ceilings.
#[derive(Parser)]
struct Args {
    /// Which kernels.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "product,conversion,attention,cache-write"
    )]
    kernel: Vec<Kind>,
    /// Whose shapes: `smol135`, `llama1b`.
    #[arg(long, value_delimiter = ',', default_value = "smol135,llama1b")]
    shape: Vec<String>,
    /// How weights are stored; keys and values beside them follow.
    #[arg(long, value_delimiter = ',', default_value = "f32,bf16,int8,int4")]
    dtype: Vec<Format>,
    /// Rows of products and conversions.
    #[arg(long, value_delimiter = ',', default_value = "1,4,8,16,32,128,512")]
    rows: Vec<usize>,
    /// Contexts of one sequence that decodes.
    #[arg(long, value_delimiter = ',', default_value = "128,2048,8192")]
    contexts: Vec<usize>,
    /// Prompts that come at once.
    #[arg(long, value_delimiter = ',', default_value = "128,2048")]
    prompts: Vec<usize>,
    /// A level of instructions, or `all` that this CPU has. Default: the fastest.
    #[arg(long, value_name = "all|LEVEL")]
    kernels: Option<String>,
    /// Threads. Default: the physical cores.
    #[arg(long)]
    threads: Option<usize>,
    /// Milliseconds that each figure is measured for.
    #[arg(long, default_value_t = 60)]
    millis: u64,
    /// MiB of weights, or of keys and values, that calls go through in turns: several times the
    /// last-level cache.
    #[arg(long, default_value_t = 256)]
    memory: usize,
    /// Print one JSON object a row.
    #[arg(long)]
    json: bool,
    /// A small model, few sizes and little time: does it run at all?
    #[arg(long)]
    quick: bool,
    /// What `cargo bench` passes to every bench; means nothing here.
    #[arg(long, hide = true)]
    bench: bool,
}

/// A kernel, or several that do one thing.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Rows times packed weights.
    Product,
    /// Rows normalised and converted for a product.
    Conversion,
    /// Attention over pages.
    Attention,
    /// Keys and values into pages.
    CacheWrite,
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = Args::parse();
    if args.quick {
        args.shape = vec!["smol135".to_owned()];
        (args.rows, args.contexts, args.prompts) = (vec![1, 8, 32], vec![128], vec![128]);
        (args.millis, args.memory) = (4, 8);
    }
    let levels = match args.kernels.as_deref() {
        None => vec![Kernels::detect()],
        Some("all") => Kernels::available(),
        Some(name) => vec![name.parse()?],
    };
    let shapes = args
        .shape
        .iter()
        .map(|name| Shape::named(name).ok_or_else(|| format!("no shape has the name {name:?}")))
        .collect::<Result<Vec<_>, _>>()?;
    let threads = args.threads.unwrap_or_else(physical_cores);
    for level in levels {
        let ceiling = Ceiling::measure(level, threads)?;
        let bench = KernelBench::new(level, threads)?
            .time(Duration::from_millis(args.millis))
            .memory(args.memory << 20);
        let title = format!(
            "{level}, {threads} threads; ceilings: {:.1} GB/s, GFLOP/s {:.0} f32, {:.0} bf16, {:.0} bytes",
            ceiling.read_gb_s, ceiling.f32_gflop_s, ceiling.bf16_gflop_s, ceiling.int8_gflop_s
        );
        let mut table = Table {
            report: Report::new(&title, args.json),
            args: &args,
            level,
            ceiling,
            bench,
        };
        for kind in &args.kernel {
            for shape in &shapes {
                table.kernel(*kind, shape)?;
            }
        }
    }
    Ok(())
}

struct Table<'a> {
    report: Report,
    args: &'a Args,
    level: Kernels,
    ceiling: Ceiling,
    bench: KernelBench,
}

impl Table<'_> {
    fn kernel(&mut self, kind: Kind, shape: &Shape) -> Result<(), LoadError> {
        match kind {
            Kind::Product => self.products(shape),
            Kind::Conversion => self.conversions(shape),
            Kind::Attention => self.attention(shape),
            Kind::CacheWrite => self.cache_write(shape),
        }
    }

    /// Gate and up together, down, and the head.
    fn products(&mut self, shape: &Shape) -> Result<(), LoadError> {
        for (depth, columns, paired) in [
            (shape.hidden, shape.intermediate, true),
            (shape.intermediate, shape.hidden, false),
            (shape.hidden, shape.vocab, false),
        ] {
            let name = format!("{depth}x{columns}{}", if paired { " pairs" } else { "" });
            for dtype in self.dtypes() {
                let shape = ProductShape {
                    dtype,
                    depth,
                    columns,
                    paired,
                };
                let samples = self.bench.product(shape, &self.args.rows)?;
                for (sample, &rows) in samples.iter().zip(&self.args.rows) {
                    self.row("product", dtype, &name, rows, sample);
                }
            }
        }
        Ok(())
    }

    fn conversions(&mut self, shape: &Shape) -> Result<(), LoadError> {
        for width in [shape.hidden, shape.intermediate] {
            for dtype in self.dtypes() {
                for &rows in &self.args.rows {
                    let sample = self.bench.conversion(dtype, width, rows)?;
                    self.row("conversion", dtype, &width.to_string(), rows, &sample);
                }
            }
        }
        Ok(())
    }

    fn attention(&mut self, shape: &Shape) -> Result<(), LoadError> {
        for kv in self.caches() {
            for &context in &self.args.contexts {
                let shape = heads(shape, kv, context, 1);
                let sample = self.bench.attention(shape)?;
                self.row("decode", kv, &named(&shape), 1, &sample);
            }
            for &prompt in &self.args.prompts {
                let shape = heads(shape, kv, prompt, prompt);
                let sample = self.bench.attention(shape)?;
                self.row("prefill", kv, &named(&shape), prompt, &sample);
            }
        }
        Ok(())
    }

    fn cache_write(&mut self, shape: &Shape) -> Result<(), LoadError> {
        for kv in self.caches() {
            for &rows in &self.args.rows {
                let shape = heads(shape, kv, rows, rows);
                let sample = self.bench.cache_write(shape)?;
                self.row("cache-write", kv, &named(&shape), rows, &sample);
            }
        }
        Ok(())
    }

    fn dtypes(&self) -> Vec<DType> {
        self.args
            .dtype
            .iter()
            .map(|format| format.dtype())
            .collect()
    }

    /// How keys and values are stored beside the weights asked for.
    fn caches(&self) -> Vec<DType> {
        let mut caches: Vec<_> = self.dtypes().iter().map(|dtype| dtype.kv()).collect();
        caches.dedup();
        caches
    }

    fn row(&mut self, kernel: &str, dtype: DType, shape: &str, rows: usize, sample: &Sample) {
        let name = format!("{kernel} {shape} {dtype} rows {rows}");
        let mut figures = Vec::new();
        // People read them in the name.
        if self.args.json {
            figures.extend([
                ("kernel", kernel.into()),
                ("kernels", self.level.to_string().into()),
                ("dtype", dtype.to_string().into()),
                ("shape", shape.into()),
                ("rows", rows.into()),
            ]);
        }
        figures.extend([
            ("us", (sample.seconds * 1e6).into()),
            ("gb_s", sample.gb_s().into()),
            ("gflop_s", sample.gflop_s().into()),
            ("ceiling_share", sample.share(&self.ceiling).into()),
            ("bound", sample.bound(&self.ceiling).to_string().into()),
        ]);
        self.report.row(&name, &figures);
    }
}

/// One sequence's attention in a layer of this shape.
fn heads(shape: &Shape, kv: DType, context: usize, new_tokens: usize) -> AttentionShape {
    AttentionShape {
        kv,
        heads: shape.heads,
        kv_heads: shape.kv_heads,
        head_dim: shape.hidden / shape.heads,
        sequences: 1,
        context,
        new_tokens,
    }
}

/// Heads over heads of keys and values, their dimensions, and the context.
fn named(shape: &AttentionShape) -> String {
    let AttentionShape {
        heads,
        kv_heads,
        head_dim,
        context,
        ..
    } = shape;
    format!("{heads}/{kv_heads}x{head_dim} of {context}")
}
