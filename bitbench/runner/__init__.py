"""Plans a run, supervises its worker processes one after another, and appends what each leaves behind."""
