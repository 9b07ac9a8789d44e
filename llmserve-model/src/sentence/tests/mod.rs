mod golden;
mod invariance;
mod recipe;
mod reference;
mod texts;
mod tiny;
