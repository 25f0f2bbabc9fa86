-- Events of one org, in order, as one step: the algorithm of core/core.cc.
--
-- Everything is read first, each counter once; then all events are decided in local variables; then
-- everything is written, deletions first. Nothing fails after the first write: Redis refuses a script
-- (READONLY, OOM, MISCONF) only at its first one. Numbers are doubles, so all of them stay below 2^53:
-- leases (MAX_LEASE), holds and actual amounts (core.h), 60,000 times a rate (rate_limit.h), times.
-- Redis hashes every byte of every Lua string, hence short strings and few copies.
--
-- KEYS, all of one hash tag:
--   1 org      hash  e: epoch, i: master_replid that InitEpoch ran under, l: life marker (identify.lua),
--                    n: newest time seen, t: time of the last Tick, g: last grant, r: last return,
--                    "<budget>/<period>": a lease as <free, held, records that name it>
--   2 holds    hash  hold id: what never changes: <admitted, time to live, tokens, fingerprint, counts,
--                    budgets <amount, name>, charges <account, tokens per minute, slot>>, and what only
--                    readers want
--   3 states   hash  hold id: <'s' settled, 'x' expired, 'o' open; deadline; cap; actual>; absent: open
--                    as it was admitted. A hold covers min(amount, cap) of each budget
--   4 ends     hash  hold id: <actual, -1 voided, -2 unknown> and the fingerprint, if known
--   5 due      zset  hold ids of one deadline (16 bytes each), score: a time that is not after it
--   6 forget   list  <time after which these ends are not needed> and their hold ids
--   7 expired  zset  hold id, score: its deadline
--   8 returns  zset  <id, count> and per budget <amount, name>, score: the id
--   9 meters   hash  account: <requests: level, updated; tokens: level, updated; slots>
-- ARGV: 1 the incarnation that must be met, or ''; 2 MessagePack: hold ids, names of leases, names of
--   accounts, numbers: options, when each hold id was made, events; 3.. new records of `holds`, one per
--   Reserve. Events name holds, leases and accounts by their index.
-- Answers a string of numbers: what the org is, its time, then each event's effect (redis_codec.cc).
local ORG, HOLDS, STATES, ENDS, DUE = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local FORGET, EXPIRED, RETURNS, METERS = KEYS[6], KEYS[7], KEYS[8], KEYS[9]
local call, pack, unpk = redis.call, struct.pack, struct.unpack
local rep, sub, concat = string.rep, string.sub, table.concat
local floor, max, min = math.floor, math.max, math.min
local MOST = 3500        -- values that a Lua call takes safely (its C stack ends at 8000); even
local IDS_MOST = 256     -- hold ids in one element of `due` and `forget`
local LOOKS = 2048       -- holds that one Tick looks at, at most
local UNIT = 60000
local DONE, REFUSED, CLOSED, CONFLICT, FINISHED, STALE, OUT_OF_ORDER, BAD = 0, 1, 2, 3, 4, 5, 6, 7
local VOIDED, UNKNOWN = -1, -2
local UNCAPPED = 9007199254740991

local function hmget(key, fields, count)
  if count == 0 then return {} end
  if count <= MOST then return call('HMGET', key, unpack(fields, 1, count)) end
  local all = {}
  for from = 1, count, MOST do
    local n = min(MOST, count - from + 1)
    local part = call('HMGET', key, unpack(fields, from, from + n - 1))
    for j = 1, n do all[from + j - 1] = part[j] end
  end
  return all
end

-- A command on a key with any number of arguments.
local function many(command, key, args, count)
  for from = 1, count, MOST do
    call(command, key, unpack(args, from, min(count, from + MOST - 1)))
  end
end

local ids, names, accounts, e = cmsgpack.unpack(ARGV[2])
local id_count, lease_count, account_count = #ids, #names, #accounts
local HORIZON, SETTLED_TTL, MAX_LEASE, AHEAD = e[1], e[2], e[3], e[4]
local MADE = 4           -- e[MADE + h]: when the id of hold h was made

-- --- what is there --------------------------------------------------------------------------------
local info = call('INFO', 'replication')
local replid = string.match(info, 'master_replid:(%x+)')
if not string.find(info, 'role:master', 1, true) then
  return redis.error_reply('READONLY this is a replica')
end
local org = call('HMGET', ORG, 'e', 'i', 'n', 't', 'g', 'r', 'l')
if ARGV[1] ~= '' then
  local run_id = string.match(call('INFO', 'server'), 'run_id:(%x+)')
  if ARGV[1] ~= run_id .. '/' .. replid .. '/' .. (org[7] or '') then
    return redis.status_reply('CHANGED')
  end
end
-- R4, R12: the key as it is, and what it is worth: 0 unless this very incarnation was initialized.
local key = tonumber(org[1] or 0)
local epoch = org[2] == replid and key or 0
local now, ticked = tonumber(org[3] or 0), tonumber(org[4] or 0)
local last_grant, last_return = tonumber(org[5] or 0), tonumber(org[6] or 0)
local out, o = {epoch > 0 and 1 or (key > 0 and 2 or 0), 0}, 2
local wiped, ticking = false, false

-- By hold: the record or false; what `states` and `ends` say, or nil.
local record = hmget(HOLDS, ids, id_count)
local stated, ended = {}, {}
do
  local there, there_n, missing, missing_n = {}, 0, {}, 0
  for h = 1, id_count do
    if record[h] then
      there_n = there_n + 1
      there[there_n] = ids[h]
    else
      missing_n = missing_n + 1
      missing[missing_n] = ids[h]
    end
  end
  local states, ends = hmget(STATES, there, there_n), hmget(ENDS, missing, missing_n)
  there_n, missing_n = 0, 0
  for h = 1, id_count do
    if record[h] then
      there_n = there_n + 1
      stated[h] = states[there_n] or nil
    else
      missing_n = missing_n + 1
      ended[h] = ends[missing_n] or nil
    end
  end
end

local made = {}                                     -- by hold, of those that Tick found
local free, held, holds, lease_there = {}, {}, {}, {}
local lease_of                                      -- by name
do
  local value = hmget(ORG, names, lease_count)
  for l = 1, lease_count do
    local there = value[l]
    if there then
      free[l], held[l], holds[l] = unpk('<lll', there)
      lease_there[l] = true
    else
      free[l], held[l], holds[l] = 0, 0, 0
    end
  end
end

local req_level, req_at, tok_level, tok_at, slots = {}, {}, {}, {}, {}
local account_of
do
  local value = hmget(METERS, accounts, account_count)
  for a = 1, account_count do
    if value[a] then
      req_level[a], req_at[a], tok_level[a], tok_at[a], slots[a] = unpk('<lllll', value[a])
    else
      req_level[a], req_at[a], tok_level[a], tok_at[a], slots[a] = 0, -1, 0, -1, 0
    end
  end
end

-- --- what is to be written ------------------------------------------------------------------------
local hold_changed, state_changed, end_changed = {}, {}, {}
local lease_changed, meter_changed = {}, {}
local expired_add, expired_del = {}, {}             -- by hold
local due_add, due_del = {}, {}                     -- deadline: list of holds; list of members
local first_due, first_added                        -- earliest stored and added deadline
local due_taken, due_page, due_at = 0, {}, 1        -- stored entries that Ticks of this call took
local new_ends = {}                                 -- holds to forget some time
local returns_add, returns_del = {}, {}

local function lease(name)
  if not lease_of then
    lease_of = {}
    for l = 1, lease_count do lease_of[names[l]] = l end
  end
  local l = lease_of[name]
  if l then return l end
  lease_count = lease_count + 1
  l = lease_count
  names[l], lease_of[name] = name, l
  local there = not wiped and call('HGET', ORG, name)
  if there then
    free[l], held[l], holds[l] = unpk('<lll', there)
    lease_there[l] = true
  else
    free[l], held[l], holds[l] = 0, 0, 0
  end
  return l
end

local function account(name)
  if not account_of then
    account_of = {}
    for a = 1, account_count do account_of[accounts[a]] = a end
  end
  local a = account_of[name]
  if a then return a end
  account_count = account_count + 1
  a = account_count
  accounts[a], account_of[name] = name, a
  local there = not wiped and call('HGET', METERS, name)
  if there then
    req_level[a], req_at[a], tok_level[a], tok_at[a], slots[a] = unpk('<lllll', there)
  else
    req_level[a], req_at[a], tok_level[a], tok_at[a], slots[a] = 0, -1, 0, -1, 0
  end
  return a
end

-- Names in a settled or voided hold are mostly not in the call's list: fetched together.
local function prefetch(wanted, count)
  if count == 0 then return end
  local value = hmget(ORG, wanted, count)
  for j = 1, count do
    local l = lease_count + j
    names[l], lease_of[wanted[j]] = wanted[j], l
    if value[j] then
      free[l], held[l], holds[l] = unpk('<lll', value[j])
      lease_there[l] = true
    else
      free[l], held[l], holds[l] = 0, 0, 0
    end
  end
  lease_count = lease_count + count
end

-- --- holds ----------------------------------------------------------------------------------------
-- By hold, once parsed; `items`: amount and name of each budget, then account, tokens per minute and
-- slot of each charge.
local state, deadline, cap, actual, items = {}, {}, {}, {}, {}
local admitted, ttl, estimate, print, budgets, charges = {}, {}, {}, {}, {}, {}
local formats = {}

local function parse(h)
  if state[h] then return true end
  local text = record[h]
  if not text then return false end
  local nb, nc, at
  admitted[h], ttl[h], estimate[h], print[h], nb, nc, at = unpk('<lllc32BB', text)
  budgets[h], charges[h] = nb, nc
  local format = formats[nb * 256 + nc]
  if not format then
    format = '<' .. rep('lHc0', nb) .. rep('Hc0lB', nc)
    formats[nb * 256 + nc] = format
  end
  items[h] = {unpk(format, text, at)}
  if stated[h] then
    state[h], deadline[h], cap[h], actual[h] = unpk('<c1lll', stated[h])
  else
    state[h], deadline[h], cap[h], actual[h] = 'o', admitted[h] + ttl[h], UNCAPPED, UNKNOWN
  end
  return true
end

local function made_at(h) return made[h] or e[MADE + h] end
local function retryable(h) return made_at(h) + HORIZON >= now end
local function forget_at(h) return (floor((made_at(h) + HORIZON) / 1000) + 1) * 1000 end

-- What `ends` says of a hold without record: actual and fingerprint ('' if not known), or nil.
local function end_of(h)
  local text = ended[h]
  if not text or forget_at(h) <= ticked then return nil end
  return (unpk('<l', text)), sub(text, 9)
end

local function remember(h, result, fingerprint)
  if not retryable(h) then return end               -- no Reserve of it can be taken any more
  if not ended[h] then new_ends[#new_ends + 1] = h end
  ended[h] = pack('<l', result) .. fingerprint
  end_changed[h] = true
end

local function level_at(level, updated, per_minute)
  local full = per_minute * UNIT
  if updated < 0 then return full end
  local elapsed = now - updated
  if elapsed < 0 then elapsed = 0 end
  if level > full then level = full end
  if elapsed >= floor((full - level + per_minute - 1) / per_minute) then return full end
  return level + elapsed * per_minute
end

local FLOOR = -50000000000 * UNIT                   -- rate_limit.cc: -kMaxRate * kUnit
local function take(level, updated, per_minute, cost)
  return max(FLOOR, min(per_minute * UNIT, level_at(level, updated, per_minute) - cost * UNIT)),
      max(updated, now)
end

-- Ends what the hold occupies of its accounts' limits; `tokens` nil: the estimate stands.
local function release_limits(h, tokens)
  local item, from = items[h], 2 * budgets[h] + 1
  for j = from, from + 3 * charges[h] - 3, 3 do
    local a, per_minute = account(item[j]), item[j + 1]
    if item[j + 2] == 1 then slots[a] = slots[a] - 1 end
    if per_minute > 0 and tokens then
      tok_level[a], tok_at[a] = take(tok_level[a], tok_at[a], per_minute, tokens - estimate[h])
    end
    meter_changed[a] = true
  end
end

-- Lowers what the record covers to at most `limit` of each budget; the rest becomes free lease.
local function credit_down_to(h, limit)
  local old = cap[h]
  if limit >= old then return 0 end
  cap[h] = limit
  local item, most = items[h], 0
  for j = 1, 2 * budgets[h], 2 do
    local amount = item[j]
    if amount > limit then
      local l, back = lease(item[j + 1]), (amount < old and amount or old) - limit
      free[l], held[l] = free[l] + back, held[l] - back
      lease_changed[l] = true
      if back > most then most = back end
    end
  end
  return most
end

local function covers_nothing(h)
  if cap[h] == 0 then return true end
  local item = items[h]
  for j = 1, 2 * budgets[h], 2 do
    if item[j] > 0 then return false end
  end
  return true
end

local function finish(h, result)
  remember(h, result, print[h])
  if state[h] == 'x' then
    expired_add[h], expired_del[h] = nil, true
  end
  local item, limit = items[h], cap[h]
  for j = 1, 2 * budgets[h], 2 do
    local l, amount = lease(item[j + 1]), item[j]
    held[l] = held[l] - (amount < limit and amount or limit)  -- the ledger took this part
    holds[l] = holds[l] - 1
    lease_changed[l] = true
  end
  record[h], state[h] = false, nil
  hold_changed[h] = true
  if stated[h] then state_changed[h] = true end
end

-- R5, first half.
local function expire(h)
  if state[h] == 'o' then release_limits(h, nil) end
  if covers_nothing(h) then                         -- nothing that the ledger would have to own
    finish(h, actual[h])
  else
    state[h] = 'x'
    state_changed[h] = true
    expired_add[h] = deadline[h]
  end
end

-- --- time -----------------------------------------------------------------------------------------
local hold_of                                       -- by id; made when a Tick finds something due
local asked, want = 0, 0                            -- the epoch and time that events come with

local function add_due(deadline, h)
  local group = due_add[deadline]
  if group then
    group[#group + 1] = h
  else
    due_add[deadline] = {h}
    if not first_added or deadline < first_added then first_added = deadline end
  end
end

-- The earliest stored entry that no Tick of this call took yet: its ids and time, or nil.
local function stored_due()
  if wiped then return nil end
  if not due_page[due_at] then
    due_page = call('ZRANGE', DUE, due_taken, due_taken + (due_taken == 0 and 0 or 7), 'WITHSCORES')
    due_at = 1
    if not due_page[1] then return nil end
  end
  return due_page[due_at], tonumber(due_page[due_at + 1])
end

-- Packed hold ids from a position on, and how many.
local function split(packed, from)
  local n = (#packed - from + 1) / 16
  return {unpk(rep('c16', n), packed, from)}, n
end

-- The holds of packed ids; those that this call does not know yet are read.
local function find_holds(packed)
  if not hold_of then
    hold_of = {}
    for h = 1, id_count do hold_of[ids[h]] = h end
  end
  local found, n = split(packed, 1)
  local unknown, count = {}, 0
  for j = 1, n do
    if not hold_of[found[j]] then
      count = count + 1
      unknown[count] = found[j]
    end
  end
  local value, states = hmget(HOLDS, unknown, count), hmget(STATES, unknown, count)
  for j = 1, count do
    id_count = id_count + 1
    ids[id_count], hold_of[unknown[j]] = unknown[j], id_count
    made[id_count] = unpk('>I6', unknown[j])
    record[id_count], stated[id_count] = value[j], states[j] or nil
  end
  for j = 1, n do found[j] = hold_of[found[j]] end
  return found, n
end

local function tick(max_expired)
  ticked, ticking = now, true
  local expired, more, looks = 0, 0, 0
  if not first_due then
    local _, at = stored_due()
    first_due = at or math.huge
  end
  while min(first_due, first_added or math.huge) <= now do
    if expired >= max_expired or looks >= LOOKS then
      more = 1
      break
    end
    local group, n, at
    if first_added and first_added <= first_due then
      at = first_added
      group = due_add[at]
      n = #group
      due_add[at], first_added = nil, nil
      for other in pairs(due_add) do first_added = min(first_added or other, other) end
    else
      local packed
      packed, at = stored_due()
      due_del[#due_del + 1] = packed
      due_taken, due_at = due_taken + 1, due_at + 2
      group, n = find_holds(packed)
      local _, after = stored_due()
      first_due = after or math.huge
    end
    looks = looks + n
    for j = 1, n do
      local h = group[j]
      if parse(h) and state[h] ~= 'x' then
        if deadline[h] > now then
          add_due(deadline[h], h)                   -- refreshed or settled meanwhile
        elseif expired >= max_expired then
          add_due(at, h)
        else
          expire(h)
          expired = expired + 1
        end
      end
    end
  end
  return expired, more
end

-- --- events ---------------------------------------------------------------------------------------
-- Settle, Void and Acknowledge name leases through their records: these are read together.
do
  local wanted, n = {}, 0
  for h = 1, id_count do
    if parse(h) then
      if not lease_of then
        lease_of = {}
        for l = 1, lease_count do lease_of[names[l]] = l end
      end
      local item = items[h]
      for j = 2, 2 * budgets[h], 2 do
        local name = item[j]
        if not lease_of[name] then
          n = n + 1
          wanted[n], lease_of[name] = name, 0
        end
      end
    end
  end
  prefetch(wanted, n)
end

-- The limits that refuse a Reserve, into `refused`: which limit, its kind, how long to wait.
local function check_limits(from, count, tokens, refused)
  local n = 0
  local function refuse(j, kind, wait)
    refused[n + 1], refused[n + 2], refused[n + 3] = j, kind, wait
    n = n + 3
  end
  for j = 0, count - 1 do
    local k = from + 4 * j
    local a, rpm, tpm, most = e[k], e[k + 1], e[k + 2], e[k + 3]
    if rpm > 0 then
      local missing = UNIT - level_at(req_level[a], req_at[a], rpm)
      if missing > 0 then refuse(j, 0, floor((missing + rpm - 1) / rpm)) end
    end
    if tpm > 0 then
      local missing = tokens * UNIT - level_at(tok_level[a], tok_at[a], tpm)
      if tokens > tpm then
        refuse(j, 1, -1)
      elseif missing > 0 then
        refuse(j, 1, floor((missing + tpm - 1) / tpm))
      end
    end
    if most > 0 and slots[a] >= most then refuse(j, 2, 0) end
  end
  return n
end

-- What stands against a Reserve before its budgets and limits are looked at; DONE: nothing; nil: it
-- is a replay and is answered.
local function judge(h, text, bad)
  if parse(h) then                                  -- R9: the same answer while the hold is open
    if print[h] ~= sub(text, 25, 56) then return CONFLICT end
    if state[h] ~= 'o' then return FINISHED end
    local item = items[h]
    out[o + 1], out[o + 2], out[o + 3] = DONE, 1, budgets[h]
    o = o + 3
    for j = 2, 2 * budgets[h], 2 do
      o = o + 1
      out[o] = free[lease(item[j])]
    end
    return nil
  end
  local result, fingerprint = end_of(h)
  if result then
    return (fingerprint == '' or fingerprint == sub(text, 25, 56)) and FINISHED or CONFLICT
  end
  local made_ms = e[MADE + h]
  if made_ms + HORIZON < now or made_ms > now + HORIZON then return STALE end
  return bad and BAD or DONE
end

-- An event on a hold that is there already, or not: outcome, applied, credited, open for.
local function end_hold(kind, h, a1, a2, bad)
  if bad == 1 then return BAD, 0, 0, 0 end
  if want > now and kind < 15 then now = want end
  local known = parse(h)
  local is = state[h]
  if kind == 11 then                                -- Settle: actual, tokens
    if not known then
      local result = end_of(h)
      return result and result ~= UNKNOWN and result ~= a1 and CONFLICT or DONE, 0, 0, 0
    end
    if is == 's' then return actual[h] == a1 and DONE or CONFLICT, 0, 0, 0 end
    if is == 'x' then return DONE, 0, 0, 0 end      -- R5: the ledger owns what it covers
    local open_ms, credited = now - admitted[h], credit_down_to(h, a1)
    release_limits(h, a2)
    if covers_nothing(h) then
      finish(h, a1)
    else
      state[h], actual[h], deadline[h] = 's', a1, max(deadline[h], now + SETTLED_TTL)
      state_changed[h] = true
    end
    return DONE, 1, credited, open_ms
  elseif kind == 12 then                            -- Void
    if not known then
      local result = end_of(h)
      if not result then remember(h, VOIDED, '') end
      return result and result > 0 and CONFLICT or DONE, 0, 0, 0
    end
    if is == 's' then return CONFLICT, 0, 0, 0 end
    if is == 'x' then return DONE, 0, 0, 0 end
    local open_ms, credited = now - admitted[h], credit_down_to(h, 0)
    release_limits(h, 0)
    finish(h, VOIDED)
    return DONE, 1, credited, open_ms
  elseif kind == 13 then                            -- Acknowledge: posted
    if not known or is == 'x' then return DONE, 0, 0, 0 end
    local credited = credit_down_to(h, a1)          -- the credit may never have come
    if is == 'o' then release_limits(h, nil) end
    finish(h, actual[h])
    return DONE, 1, credited, 0
  elseif kind == 14 then                            -- Refresh
    if is ~= 'o' then return DONE, 0, 0, 0 end
    deadline[h] = now + ttl[h]
    state_changed[h] = true
  elseif kind == 15 then                            -- Expire
    if not known or is == 'x' then return DONE, 0, 0, 0 end
    expire(h)
  else                                              -- ExpiredPosted
    if is ~= 'x' then return DONE, 0, 0, 0 end
    finish(h, UNKNOWN)
  end
  return DONE, 1, 0, 0
end

local latest = math.huge                            -- no clock counts as later than this
if AHEAD >= 0 then
  local time = call('TIME')
  latest = time[1] * 1000 + floor(time[2] / 1000) + AHEAD
end
local at, last, new = MADE + id_count + 1, #e, 2    -- new: ARGV of the last new record
local refused = {}
while at < last do
  local kind = e[at]
  if kind == 10 then                                -- Reserve
    local h, flags, time_to_live, tokens, nb = e[at + 1], e[at + 2], e[at + 3], e[at + 4], e[at + 5]
    local b = at + 6                                -- budgets: lease, amount; -1: observed
    local b_end = b + 2 * nb - 2
    local n_limits = e[b_end + 2]
    local q = b_end + 3                             -- limits: account, requests, tokens, slots
    at = q + 4 * n_limits
    new = new + 1
    local outcome = CLOSED
    if epoch > 0 and asked == epoch then
      if want > now then now = want end
      outcome = judge(h, ARGV[new], flags % 2 == 1)
    end
    if outcome ~= DONE then
      if outcome then
        o = o + 1
        out[o] = outcome
      end
    else
      -- Validate everything before the first change.
      local short, n_refused = 0, 0
      for j = b, b_end, 2 do
        if free[e[j]] < e[j + 1] then short = short + 1 end
      end
      if flags >= 2 and n_limits > 0 then n_refused = check_limits(q, n_limits, tokens, refused) end
      if short > 0 or n_refused > 0 then
        out[o + 1], out[o + 2] = REFUSED, short
        o = o + 2
        for j = b, b_end, 2 do
          if free[e[j]] < e[j + 1] then
            out[o + 1], out[o + 2] = (j - b) / 2, free[e[j]]
            o = o + 2
          end
        end
        o = o + 1
        out[o] = n_refused / 3
        for j = 1, n_refused do out[o + j] = refused[j] end
        o = o + n_refused
      else
        out[o + 1], out[o + 2], out[o + 3] = DONE, 0, nb
        o = o + 3
        for j = b, b_end, 2 do
          local l, amount = e[j], e[j + 1]
          local rest = free[l]
          if amount > 0 then
            rest = rest - amount
            free[l], held[l] = rest, held[l] + amount
          end
          holds[l] = holds[l] + 1
          lease_changed[l] = true
          o = o + 1
          out[o] = rest
        end
        for k = q, q + 4 * n_limits - 4, 4 do
          local a, rpm, tpm, most = e[k], e[k + 1], e[k + 2], e[k + 3]
          if rpm > 0 and flags >= 2 then
            req_level[a], req_at[a] = take(req_level[a], req_at[a], rpm, 1)
          end
          if tpm > 0 then tok_level[a], tok_at[a] = take(tok_level[a], tok_at[a], tpm, tokens) end
          if most > 0 then slots[a] = slots[a] + 1 end
          if rpm > 0 or tpm > 0 or most > 0 then meter_changed[a] = true end
        end
        -- The record comes with the time that its event came with; another enforcer may be ahead.
        local text = ARGV[new]
        record[h] = now == want and text or pack('<l', now) .. sub(text, 9)
        hold_changed[h] = true
        add_due(now + time_to_live, h)
      end
    end
  elseif kind >= 11 and kind <= 16 then             -- an event on a hold
    if epoch > 0 and asked == epoch then
      out[o + 1], out[o + 2], out[o + 3], out[o + 4] =
          end_hold(kind, e[at + 1], e[at + 2], e[at + 3], e[at + 4])
    else
      out[o + 1], out[o + 2], out[o + 3], out[o + 4] = CLOSED, 0, 0, 0
    end
    o = o + 4
    at = at + 5
  elseif kind == 1 then                             -- epoch and time of the events that follow
    asked, want = e[at + 1], min(e[at + 2], latest)
    at = at + 3
  elseif kind == 17 then                            -- Tick: most to expire
    local outcome, expired, more = CLOSED, 0, 0
    if epoch > 0 and asked == epoch then
      if want > now then now = want end
      outcome = DONE
      expired, more = tick(e[at + 1])
    end
    out[o + 1], out[o + 2], out[o + 3] = outcome, expired, more
    o = o + 3
    at = at + 2
  elseif kind == 18 then                            -- AddGrant: id, bad, items: lease, amount
    local id, bad, n = e[at + 1], e[at + 2], e[at + 3]
    local from, to = at + 4, at + 3 + 2 * n
    at = to + 1
    local outcome, applied = DONE, 0
    if epoch == 0 or asked ~= epoch then
      outcome = CLOSED
    elseif id <= last_grant then                    -- R10
      outcome = DONE
    elseif id ~= last_grant + 1 then
      outcome = OUT_OF_ORDER
    elseif bad == 1 then
      outcome = BAD
    else
      for j = from, to, 2 do
        local l = e[j]
        if e[j + 1] > MAX_LEASE - free[l] - held[l] then outcome = BAD end
      end
      if outcome == DONE then
        for j = from, to, 2 do
          local l = e[j]
          if e[j + 1] > 0 then
            free[l] = free[l] + e[j + 1]
            lease_changed[l] = true
          end
        end
        last_grant, applied = id, 1
      end
    end
    out[o + 1], out[o + 2] = outcome, applied
    o = o + 2
  elseif kind == 19 then                            -- TakeOut: items: lease, what may stay
    local n = e[at + 1]
    local from, to = at + 2, at + 1 + 2 * n
    at = to + 1
    local outcome, id = CLOSED, 0
    if epoch > 0 and asked == epoch then
      outcome = DONE
      local taken = {}
      for j = from, to, 2 do
        local l, keep = e[j], e[j + 1]
        if keep >= 0 and free[l] > keep then
          local name = names[l]
          taken[#taken + 1] = pack('<lHc0', free[l] - keep, #name, name)
          free[l] = keep
          lease_changed[l] = true
        end
      end
      if taken[1] then                              -- R6: the record is the outbox
        last_return = last_return + 1
        id = last_return
        returns_add[id] = pack('<lH', id, #taken) .. concat(taken)
      end
    end
    out[o + 1], out[o + 2] = outcome, id
    o = o + 2
  elseif kind == 20 then                            -- ReturnPosted
    local outcome = CLOSED
    if epoch > 0 and asked == epoch then
      outcome = DONE
      returns_add[e[at + 1]] = nil
      returns_del[#returns_del + 1] = e[at + 1]
    end
    o = o + 1
    out[o] = outcome
    at = at + 2
  else                                              -- InitEpoch (R8)
    local new, outcome = e[at + 1], DONE
    at = at + 2
    if new <= 0 then
      outcome = BAD
    elseif new < key or (new == key and epoch == 0) then
      outcome = CLOSED
    elseif new > key then
      key, epoch, wiped = new, new, true
      last_grant, last_return, ticked = 0, 0, 0
      for h = 1, id_count do record[h] = false end
      for l = 1, lease_count do free[l], held[l], holds[l] = 0, 0, 0 end
      for a = 1, account_count do
        req_level[a], req_at[a], tok_level[a], tok_at[a], slots[a] = 0, -1, 0, -1, 0
      end
      ended, stated, state, lease_there = {}, {}, {}, {}
      hold_changed, state_changed, end_changed, lease_changed, meter_changed = {}, {}, {}, {}, {}
      expired_add, expired_del, due_add, due_del, new_ends = {}, {}, {}, {}, {}
      returns_add, returns_del = {}, {}
      first_due, first_added, due_page, due_at = math.huge, nil, {}, 1
    end
    o = o + 1
    out[o] = outcome
  end
end

-- --- write ----------------------------------------------------------------------------------------
out[2] = now
if epoch > 0 then
  if wiped then
    call('UNLINK', ORG, HOLDS, STATES, ENDS, DUE, FORGET, EXPIRED, RETURNS, METERS)
  end

  -- Deletions come first: a script that starts with one is not refused for lack of memory.
  local hold_set, hold_del, state_set, state_del = {}, {}, {}, {}
  local n, d = 0, 0
  for h in pairs(hold_changed) do
    if record[h] then
      hold_set[n + 1], hold_set[n + 2] = ids[h], record[h]
      n = n + 2
    else
      d = d + 1
      hold_del[d] = ids[h]
    end
  end
  many('HDEL', HOLDS, hold_del, d)
  local sn, sd = 0, 0
  for h in pairs(state_changed) do
    if record[h] then
      state_set[sn + 1] = ids[h]
      state_set[sn + 2] = pack('<c1lll', state[h], deadline[h], cap[h], actual[h])
      sn = sn + 2
    else
      sd = sd + 1
      state_del[sd] = ids[h]
    end
  end
  many('HDEL', STATES, state_del, sd)
  many('ZREM', DUE, due_del, #due_del)
  local list, count = {}, 0
  for h in pairs(expired_del) do
    count = count + 1
    list[count] = ids[h]
  end
  many('ZREM', EXPIRED, list, count)
  for j = 1, #returns_del do call('ZREMRANGEBYSCORE', RETURNS, returns_del[j], returns_del[j]) end
  local org_set, m, org_del = {}, 0, {}
  for l in pairs(lease_changed) do
    if free[l] ~= 0 or holds[l] ~= 0 then
      org_set[m + 1], org_set[m + 2] = names[l], pack('<lll', free[l], held[l], holds[l])
      m = m + 2
    elseif lease_there[l] then
      org_del[#org_del + 1] = names[l]
    end
  end
  many('HDEL', ORG, org_del, #org_del)
  if ticking and not wiped then
    -- A few of the oldest ends go with every call: more than come.
    local page, gone = call('LRANGE', FORGET, 0, 3), 0
    for j = 1, #page do
      if unpk('<l', page[j]) > ticked then break end
      local found, found_n = split(page[j], 9)
      many('HDEL', ENDS, found, found_n)
      gone = j
    end
    if gone > 0 then call('LTRIM', FORGET, gone, -1) end
  end

  org_set[m + 1], org_set[m + 2] = 'n', now
  org_set[m + 3], org_set[m + 4] = 't', ticked
  org_set[m + 5], org_set[m + 6] = 'g', last_grant
  org_set[m + 7], org_set[m + 8] = 'r', last_return
  m = m + 8
  if wiped then
    org_set[m + 1], org_set[m + 2] = 'e', epoch
    org_set[m + 3], org_set[m + 4] = 'i', replid
    org_set[m + 5], org_set[m + 6] = 'l', org[7]
    m = m + 6
  end
  many('HSET', ORG, org_set, m)
  many('HSET', HOLDS, hold_set, n)
  many('HSET', STATES, state_set, sn)

  list, count = {}, 0
  for h in pairs(end_changed) do
    list[count + 1], list[count + 2] = ids[h], ended[h]
    count = count + 2
  end
  many('HSET', ENDS, list, count)
  for from = 1, #new_ends, IDS_MOST do
    local group, latest = {}, 0
    for j = from, min(#new_ends, from + IDS_MOST - 1) do
      latest = max(latest, forget_at(new_ends[j]))
      group[#group + 1] = ids[new_ends[j]]
    end
    call('RPUSH', FORGET, pack('<l', latest) .. concat(group))
  end

  list, count = {}, 0
  for time, group in pairs(due_add) do
    for from = 1, #group, IDS_MOST do
      local members = {}
      for j = from, min(#group, from + IDS_MOST - 1) do members[#members + 1] = ids[group[j]] end
      list[count + 1], list[count + 2] = time, concat(members)
      count = count + 2
    end
  end
  many('ZADD', DUE, list, count)
  list, count = {}, 0
  for h, time in pairs(expired_add) do
    list[count + 1], list[count + 2] = time, ids[h]
    count = count + 2
  end
  many('ZADD', EXPIRED, list, count)
  for id, packed in pairs(returns_add) do call('ZADD', RETURNS, id, packed) end

  list, count = {}, 0
  for a in pairs(meter_changed) do
    list[count + 1] = accounts[a]
    list[count + 2] = pack('<lllll', req_level[a], req_at[a], tok_level[a], tok_at[a], slots[a])
    count = count + 2
  end
  many('HSET', METERS, list, count)
end

-- Padded to a multiple of 16 numbers.
for j = o + 1, o + (-o) % 16 do out[j] = 0 end
o = o + (-o) % 16
local parts = {}
for from = 1, o, 3504 do
  local to = min(o, from + 3503)
  parts[#parts + 1] = pack('<' .. rep('llllllllllllllll', (to - from + 1) / 16), unpack(out, from, to))
end
return concat(parts)
