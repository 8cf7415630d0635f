"""A consultation: the session, its differential, record, quality gate and export."""
