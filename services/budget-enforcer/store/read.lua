-- Views of one org, a bounded part per call. KEYS as run.lua. ARGV: 1 what; 2 a hold id or the most
-- to answer; 3 a cursor, first '0'. Answers: the epoch served, the next cursor ('0': that was all),
-- then triples: hold id, record, state; lease, value, ''; '', return, ''. Numbers in them are 64-bit
-- integers, while run.lua keeps what only it reads as doubles.
local ORG, HOLDS, STATES, EXPIRED, RETURNS = KEYS[1], KEYS[2], KEYS[3], KEYS[7], KEYS[8]
local what, argument, cursor = ARGV[1], ARGV[2], ARGV[3]
local call = redis.call

local info = call('INFO', 'replication')
local org = call('HMGET', ORG, 'm', 'i')
if not string.find(info, 'role:master', 1, true) then
  return redis.error_reply('READONLY this is a replica')
end
if not org[1] or org[2] ~= string.match(info, 'master_replid:(%x+)') then return {'0', '0'} end

local answer, n = {string.format('%d', (struct.unpack('<d', org[1]))), '0'}, 2
local function add(id, record, state)
  if id == '' and (not record or record == '') then return end  -- what only keeps a key there
  if state then state = struct.pack('<c1lll', struct.unpack('<c1ddd', state)) end
  answer[n + 1], answer[n + 2], answer[n + 3] = id, record, state or ''
  n = n + 3
end
if what == 'hold' then
  local record = call('HGET', HOLDS, argument)
  if record then add(argument, record, call('HGET', STATES, argument)) end
elseif what == 'expired' then
  local ids = call('ZRANGE', EXPIRED, 0, argument - 1)
  for j = 1, #ids do add(ids[j], call('HGET', HOLDS, ids[j]), call('HGET', STATES, ids[j])) end
elseif what == 'returns' then
  local packed = call('ZRANGE', RETURNS, 0, argument - 1)
  for j = 1, #packed do add('', packed[j]) end
else
  local page = call('HSCAN', what == 'holds' and HOLDS or ORG, cursor, 'COUNT', argument)
  answer[2] = page[1]
  local found = page[2]
  for j = 1, #found, 2 do
    if what == 'holds' then
      add(found[j], found[j + 1], call('HGET', STATES, found[j]))
    elseif #found[j] > 1 then  -- fields of the org itself are single letters
      add(found[j], struct.pack('<lll', struct.unpack('<ddd', found[j + 1])))
    end
  end
end
return answer
