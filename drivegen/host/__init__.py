"""Networks and plugins together: one prediction from all that the plugins say."""
