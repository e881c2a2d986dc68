"""Tables: the papers' beside ours, and the leaderboard."""
