"""The command `memoria plan`: what is asked, and how a plan is shown."""
