"""Questions and answers in Markdown: the demo model learns them, and exports are measured on them
where the user names no other text."""
