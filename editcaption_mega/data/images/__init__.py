"""Pictures: the guarded way from bytes to pixels, and from pixels to patches."""
