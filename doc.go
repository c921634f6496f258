// Package cache is an embeddable, durable store for versioned values under
// two-level keys. It runs inside your process: there is no server to install,
// a hot read takes well under a microsecond, and an acknowledged write has
// been synced to disk.
//
//	c, err := cache.Open(cache.Options{Dir: "./data"})
//	if err != nil {
//		return err
//	}
//	defer c.Close()
//
//	v, err := c.Put(ctx, cache.K("account/4711", "balance"), []byte("100"))
//	...
//	// Changes the balance only if nobody else did in the meantime.
//	_, err = c.Put(ctx, cache.K("account/4711", "balance"), []byte("90"), cache.IfVersion(v))
//	if errors.Is(err, cache.ErrVersionMismatch) {
//		// read again, decide again
//	}
//
// # Words
//
// One word has one meaning throughout:
//
//   - A node is one process that has the cache open.
//   - Primary and secondary are the two levels of a [Key]. The primary decides
//     where a key lives and is the unit of locality; the secondary orders the
//     keys of one primary.
//   - A shard is a fixed hash bucket of primaries. How many there are is fixed
//     when the directory is created.
//   - A version is the commit time of a write in microseconds since the Unix
//     epoch. Versions rise strictly within a shard and never repeat.
//   - A command is the message that changes a shard; nothing else does.
//   - A transaction is a set of conditions and writes of which all are applied
//     or none, on any shards.
//   - A node is one process that has the cache open; a replica is its copy of a
//     shard; the leader is the replica that orders the shard's commands.
//   - The catalog is the replicated record of the cluster itself: nodes, replicas,
//     settings.
//   - Solo is running without a cluster.
//
// # Clusters
//
// With [ClusterOptions].Addr a cache is a node of a cluster: without peers it
// founds one by itself, with [ClusterOptions].Peers it joins theirs. Every node
// serves every key. Each shard is replicated by raft (Ongaro and Ousterhout, 2014)
// on as many nodes as [ClusterOptions].ReplicationFactor says; a write is answered
// when a majority of them has it on disk.
//
// # What you can rely on
//
// With [Synced], the default, a write that returned without an error survives
// kill -9 and power loss. With [Relaxed] the writes of the last
// [StorageOptions].SyncInterval may be lost. Reads and transactions are strictly
// serializable: a read sees every write that was acknowledged before it began.
// Stored data is checksummed; what fails its checksum is reported as [ErrCorrupt] and never returned as a value.
//
// A disk that fails a write fences the cache: [Cache.Done] is closed,
// [Cache.Err] says why, every call fails, and your process lives. The package
// never exits the process, installs no signal handler, writes to no global
// logger or registry, and leaves no goroutine and no open file after
// [Cache.Close].
//
// # Errors
//
// Every failed operation returns an [*Error] that wraps one of the sentinels,
// to be told apart with [errors.Is]. For a write, [Error].Outcome says whether
// it was applied, was not, or whether that is unknown ([ErrIndeterminate]).
// Give a write an id with [WithRequestID] and it is applied at most once
// however often you repeat it; [Cache.Outcome] tells what became of it.
//
// # Ownership and concurrency
//
// All methods of [*Cache], [*Admin] and [*Table] may be called by any number of
// goroutines at once. Slices passed in are not kept after the call returns;
// slices handed out belong to the caller. A [*Tx] is the exception to the
// first rule: it is used inside its function only, by one goroutine.
//
// Every call takes a context first. A context that is nil gives [ErrInvalid].
// One that is done while a write waits gives [ErrUnavailable] if the write was
// certainly not applied and [ErrIndeterminate] if it may have been.
package cache
