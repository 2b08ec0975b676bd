//! `ondemand check`: what would not work, said before it does not work.
