package sqlite

import "context"

// Pragma changes a setting of the writer's connection, which must be idle.
func (s *Store) Pragma(ctx context.Context, setting string) error {
	_, err := s.write.conn.ExecContext(ctx, "PRAGMA "+setting)
	return err
}
