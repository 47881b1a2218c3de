"""The pages for a site's users: text/, filled in from its settings, in the form of its documentation."""
