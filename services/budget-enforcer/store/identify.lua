-- Who holds an org's leases (R12): "run_id/master_replid/life". A process that starts, or a replica
-- that is promoted, draws another master_replid; the life marker goes with the org's data.
-- KEYS 1: the org's hash (run.lua). ARGV 1: a random marker, for an org that has none.
local replication = redis.call('INFO', 'replication')
if not string.find(replication, 'role:master', 1, true) then
  return redis.error_reply('READONLY this is a replica')
end
redis.call('HSETNX', KEYS[1], 'l', ARGV[1])
return string.match(redis.call('INFO', 'server'), 'run_id:(%x+)') .. '/' ..
    string.match(replication, 'master_replid:(%x+)') .. '/' .. redis.call('HGET', KEYS[1], 'l')
