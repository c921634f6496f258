package storage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/sstable"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/diskio"
	"github.com/distributedcache/cache/internal/keyenc"
)

// maxProblems bounds how many problems a check lists; a rotten disk would
// otherwise list every entry.
const maxProblems = 100

// A check reads everything once and writes nothing: larger caches would be of
// no use.
const (
	checkCacheBytes    = 8 << 20
	checkMemTableBytes = 4 << 20
)

// Check examines the data directory dir, which no store may have open, and
// changes nothing in it. It reads everything: the identity, the log, every
// block of every data file with its checksum, the order of the engine's
// levels, and each entry: that it belongs to a shard of the directory, that
// it decodes, and that a record that expires is in the expiry index.
//
// What is wrong with the directory is listed in the report; the error says
// that it could not be checked: it wraps ErrInvalid if dir holds no data
// directory or one of a newer format, ErrInUse if a store has it open.
func Check(ctx context.Context, dir string) (base.CheckReport, error) {
	return CheckFS(ctx, dir, nil)
}

// CheckFS is Check for a directory of any file system.
func CheckFS(ctx context.Context, dir string, fsys FS) (base.CheckReport, error) {
	if dir == "" {
		return base.CheckReport{}, fmt.Errorf("%w: a check needs a data directory", base.ErrInvalid)
	}
	cfg := Config{
		Dir: dir, FS: fsys, ReadCacheBytes: -1, BlockCacheBytes: checkCacheBytes, MemTableBytes: checkMemTableBytes,
	}.withDefaults()
	c := &checker{cfg: cfg}
	err := c.run(ctx)
	if more := c.problems - maxProblems; more > 0 {
		c.report.Problems = append(c.report.Problems, fmt.Sprintf("and %d more", more))
	}
	return c.report, err
}

type checker struct {
	cfg      Config
	report   base.CheckReport
	problems int // found, listed or not
}

// problem notes what is wrong. It is not an error of the check.
func (c *checker) problem(format string, args ...any) {
	if c.problems++; c.problems <= maxProblems {
		c.report.Problems = append(c.report.Problems, fmt.Sprintf(format, args...))
	}
}

func (c *checker) run(ctx context.Context) error {
	fsys := c.cfg.FS
	if info, err := fsys.Stat(c.cfg.Dir); errors.Is(err, fs.ErrNotExist) || err == nil && !info.IsDir() {
		return fmt.Errorf("%w: %s is not a data directory", base.ErrInvalid, c.cfg.Dir)
	} else if err != nil {
		return diskio.Typed("check", err)
	}
	id, err := readIdentity(fsys, c.cfg.Dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if _, err := fsys.Stat(fsys.PathJoin(c.cfg.Dir, dataDir)); err != nil {
			return fmt.Errorf("%w: %s is not a data directory: it has no %s", base.ErrInvalid, c.cfg.Dir, identityFile)
		}
		c.problem("%s is missing", identityFile)
		return nil
	case errors.Is(err, base.ErrCorrupt):
		c.problem("%v", err)
		return nil
	case err != nil:
		return diskio.Typed("check", err)
	}
	lock, err := lockDir(c.cfg)
	if err != nil {
		return err
	}
	return errors.Join(c.checkEngine(ctx, id), diskio.Typed("check", lock.Close()))
}

// checkEngine opens the engine without changing it, and looks at all of it.
func (c *checker) checkEngine(ctx context.Context, id Identity) (err error) {
	s := newStore(c.cfg)
	s.id = id
	s.cache = newBlockCache(c.cfg)
	defer close(s.fs.release)
	if err := s.openReadOnly(); err != nil {
		if errors.Is(err, base.ErrCorrupt) {
			c.problem("%v", err)
			err = nil
		}
		s.cache.Unref()
		return err
	}
	defer func() { err = errors.Join(err, s.closeEngine()) }()
	if err := c.checkTables(ctx, s); err != nil {
		return err
	}
	if c.problems == 0 { // else it would only meet the same damage again
		if err := s.checkLevels(); err != nil {
			c.problem("levels of the engine: %v", err)
		}
	}
	for _, r := range shardRanges(id.Shards) {
		e := entryChecker{checker: c, s: s, r: r}
		if err := e.run(ctx); err != nil {
			return err
		}
	}
	return nil
}

// openReadOnly opens an engine that must be there. Nothing is written.
func (s *Store) openReadOnly() (err error) {
	defer recovered(s.cfg.Logger, "open", &err)
	opts := engineOptions(s.cfg, s.cache)
	opts.FS = s.fs
	opts.Logger = s.events
	opts.ReadOnly = true
	opts.ErrorIfNotExists = true
	dir := s.fs.PathJoin(s.cfg.Dir, dataDir)
	if err := diskio.CheckSeal(s.fs, s.cfg.Dir, dir); err != nil {
		return err
	}
	if err := diskio.CheckLogs(s.fs, dir); err != nil {
		return err
	}
	s.db, err = pebble.Open(dir, opts)
	if cause := s.fence.Err(); err == nil && cause != nil {
		err = cause
	}
	return openError(err)
}

func (s *Store) checkLevels() (err error) {
	defer recovered(s.cfg.Logger, "check", &err)
	return s.db.CheckLevels(nil)
}

// checkTables reads every block of every data file that is in use.
func (c *checker) checkTables(ctx context.Context, s *Store) error {
	levels, err := s.db.SSTables()
	if err != nil {
		c.problem("list of data files: %v", err)
		return nil
	}
	seen := map[string]bool{} // several tables may share one file
	for _, t := range slices.Concat(levels...) {
		name := fmt.Sprintf("%06d%s", uint64(t.BackingSSTNum), tableSuffix)
		if seen[name] {
			continue
		}
		seen[name] = true
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := s.checkTable(ctx, name); err != nil {
			c.problem("data file %s: %v", name, err)
		}
	}
	return nil
}

// checkTable reads every block of a data file and compares its checksum.
func (s *Store) checkTable(ctx context.Context, name string) (err error) {
	defer recovered(s.cfg.Logger, "check", &err)
	f, err := s.cfg.FS.Open(s.cfg.FS.PathJoin(s.cfg.Dir, dataDir, name))
	if err != nil {
		return err
	}
	readable, err := sstable.NewSimpleReadable(f)
	if err != nil {
		return errors.Join(err, f.Close())
	}
	opts := engineOptions(s.cfg, s.cache)
	opts.EnsureDefaults()
	r, err := sstable.NewReader(ctx, readable, opts.MakeReaderOptions())
	if err != nil {
		return err // the reader has closed the file
	}
	return errors.Join(r.ValidateBlockChecksums(), r.Close())
}

// shardRange is the range of a shard, or a gap between shards, where nothing
// may be.
type shardRange struct {
	lower, upper []byte
	gap          bool
}

func shardRanges(shards int) []shardRange {
	var ranges []shardRange
	for i := range shards {
		shard := base.ShardID(i)
		ranges = append(ranges, shardRange{
			lower: keyenc.AppendShardStart(nil, shard),
			upper: keyenc.AppendShardEnd(nil, shard),
		})
	}
	for _, shard := range []base.ShardID{base.CatalogShard, NodeShard} {
		ranges = append(ranges, shardRange{
			lower: keyenc.AppendShardStart(nil, shard),
			upper: keyenc.AppendShardEnd(nil, shard),
		})
	}
	var gaps []shardRange
	var lower []byte
	for _, r := range ranges {
		gaps = append(gaps, shardRange{lower: lower, upper: r.lower, gap: true})
		lower = r.upper
	}
	return append(append(ranges, gaps...), shardRange{lower: lower, gap: true})
}

// entryChecker looks at every entry of one range.
type entryChecker struct {
	*checker
	s   *Store
	r   shardRange
	key []byte // scratch
}

// run looks at all entries. One iterator for each range keeps damage in one
// shard from hiding that in the next.
func (e *entryChecker) run(ctx context.Context) (err error) {
	var broken error
	n := 0
	err = e.s.scan(e.s.db, e.r.lower, e.r.upper, func(key, value []byte) error {
		if n++; n%importCheckEvery == 0 && ctx.Err() != nil {
			broken = context.Cause(ctx)
			return broken
		}
		e.entry(key, value)
		return nil
	})
	if broken != nil {
		return broken
	}
	if err != nil {
		e.problem("entries of shard %s: %v", e.name(), err)
	}
	return nil
}

func (e *entryChecker) name() string {
	switch {
	case e.r.gap:
		return "none"
	case keyenc.Shard(e.r.lower) == NodeShard:
		return "node"
	}
	return fmt.Sprint(keyenc.Shard(e.r.lower))
}

func (e *entryChecker) entry(key, value []byte) {
	if e.r.gap {
		e.problem("entry %.40x belongs to no shard", key)
		return
	}
	e.report.Bytes += int64(len(key) + len(value))
	space, err := checkEntry(key, value)
	if err != nil {
		e.problem("shard %s: %v", e.name(), err)
		return
	}
	switch space {
	case keyenc.SpaceRecord:
		e.report.Records++
		e.checkExpiry(key, value)
	case keyenc.SpaceExpiry:
		e.report.Expiries++
	case keyenc.SpaceRequest:
		e.report.Requests++
	}
}

// checkExpiry looks a record that expires up in the expiry index, without
// which nothing would ever remove it.
func (e *entryChecker) checkExpiry(phys, value []byte) {
	head, _, err := decodeHead(value)
	if err != nil || head.ExpiresAt == 0 {
		return
	}
	shard, key, err := keyenc.DecodeRecordKey(phys)
	if err != nil {
		return
	}
	var version base.Version
	e.key = keyenc.AppendExpiryKey(e.key[:0], shard, head.ExpiresAt, key)
	indexed, found, err := e.s.readEntry(e.s.db, e.key)
	if found {
		version, err = decodeExpiryValue(indexed)
	}
	switch {
	case err != nil: // the expiry index is read, and its damage told, later
	case !found:
		e.problem("shard %s: record %s expires, but is not in the expiry index", e.name(), key)
	case version != head.Version:
		e.problem("shard %s: record %s has version %d, but %d in the expiry index", e.name(), key, head.Version, version)
	}
}
