-- Events of one org, in order, as one step: the algorithm of core/core.cc.
--
-- Everything is read first, each counter once; then all events are decided in local variables; then
-- everything is written, deletions first. Nothing fails after the first write: Redis refuses a script
-- (READONLY, OOM, MISCONF) only at its first one. Numbers are doubles, so all of them stay below 2^53:
-- leases (MAX_LEASE), holds and actual amounts (core.h), 60,000 times a rate (rate_limit.h), times.
-- Redis hashes every byte of every Lua string, hence short strings and few copies; a closure costs a
-- search per variable that it captures, hence few of them where only new holds are made.
--
-- KEYS, all of one hash tag:
--   1 org      hash  m: <epoch, newest time seen, time of the last Tick, last grant, last return,
--                    a time not after the first of `due`, and of `forget`>; i: the master_replid that
--                    InitEpoch ran under; l: life marker (identify.lua);
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
-- None of them is ever empty once the org has an epoch: 2-5, 7-9 have a member '' (score: +inf), 6 an
-- element without ids. While a Cluster moves a slot it refuses scripts that name a key which is not
-- there, as it cannot know where that belongs.
-- ARGV: 1 the incarnation that must be met, or ''; 2 MessagePack: hold ids, fields of `org` (m, i, l,
--   leases), accounts, numbers: options, when each hold id was made, events; 3.. new records of
--   `holds`, one per Reserve. Events name holds, leases and accounts by their index.
-- Answers a string of numbers: what the org is, its time, then each event's effect (redis_codec.cc).
local ORG, HOLDS, STATES, ENDS, DUE = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local FORGET, EXPIRED, RETURNS, METERS = KEYS[6], KEYS[7], KEYS[8], KEYS[9]
local call, pack, unpk, floor, max, min = redis.call, struct.pack, struct.unpack, math.floor, math.max, math.min
local DONE, REFUSED, CLOSED, CONFLICT, FINISHED, STALE, OUT_OF_ORDER, BAD = 0, 1, 2, 3, 4, 5, 6, 7
local ADMITTED = 8       -- a new hold: DONE, not replayed
local NEVER = 9007199254740991

-- 3500 values at a time: Lua's C stack ends at 8000.
local function hmget(key, fields, count)
  if count == 0 then return {} end
  if count <= 3500 then return redis.call('HMGET', key, unpack(fields, 1, count)) end
  local all = {}
  for from = 1, count, 3500 do
    local n = math.min(3500, count - from + 1)
    local part = redis.call('HMGET', key, unpack(fields, from, from + n - 1))
    for j = 1, n do all[from + j - 1] = part[j] end
  end
  return all
end

-- A command on a key with any even number of arguments, or any number of single ones.
local function many(command, key, args, count)
  for from = 1, count, 3500 do
    redis.call(command, key, unpack(args, from, math.min(count, from + 3499)))
  end
end

-- Packed hold ids from a position on, and how many.
local function split(packed, from)
  local n = (#packed - from + 1) / 16
  return {struct.unpack(string.rep('c16', n), packed, from)}, n
end

-- rate_limit.cc
local function level_at(level, updated, per_minute, now)
  local full = per_minute * 60000
  if updated < 0 then return full end
  local elapsed = now - updated
  if elapsed < 0 then elapsed = 0 end
  if level > full then level = full end
  if elapsed >= math.floor((full - level + per_minute - 1) / per_minute) then return full end
  return level + elapsed * per_minute
end

-- --- what is there --------------------------------------------------------------------------------
local ids, names, accounts, e = cmsgpack.unpack(ARGV[2])
local id_count, lease_count, account_count = #ids, #names, #accounts
local HORIZON, SETTLED_TTL, MAX_LEASE, AHEAD = e[1], e[2], e[3], e[4]
local only_new, earliest_want, latest_want, least_ttl = e[5], e[6], e[7], e[8]
local MADE = 8           -- e[MADE + h]: when the id of hold h was made

local info = call('INFO', 'replication')
if not string.find(info, 'role:master', 1, true) then
  return redis.error_reply('READONLY this is a replica')
end
local org = hmget(ORG, names, lease_count)
if ARGV[1] ~= '' then
  local identity = string.match(call('INFO', 'server'), 'run_id:(%x+)') .. '/' ..
      string.match(info, 'master_replid:(%x+)') .. '/' .. (org[3] or '')
  if ARGV[1] ~= identity then return redis.status_reply('CHANGED') end
end
-- R4, R12: the key as it is, and what it is worth: 0 unless this very incarnation was initialized.
local key, epoch, now, ticked, last_grant, last_return, first_due, first_forget = 0, 0, 0, 0, 0, 0, NEVER, NEVER
if org[1] then
  key, now, ticked, last_grant, last_return, first_due, first_forget = unpk('<ddddddd', org[1])
  if org[2] and string.find(info, 'master_replid:' .. org[2], 1, true) then epoch = key end
end
local out, o = {epoch > 0 and 1 or (key > 0 and 2 or 0), 0}, 2
local wiped, ticking = false, false
local latest = NEVER                                -- no clock counts as later than this
if AHEAD >= 0 then
  local time = call('TIME')
  latest = time[1] * 1000 + floor(time[2] / 1000) + AHEAD
end

-- By hold: the record or false; what `states` and `ends` say, or false.
local record, stated, ended = hmget(HOLDS, ids, id_count), {}, {}
local there_n = 0
for h = 1, id_count do
  if record[h] then there_n = there_n + 1 end
end
if there_n == 0 then
  ended = hmget(ENDS, ids, id_count)
else
  stated = hmget(STATES, ids, id_count)
  if there_n < id_count then ended = hmget(ENDS, ids, id_count) end
end

-- By index; leases begin at 4.
local free, held, holds, lease_there = {0, 0, 0}, {0, 0, 0}, {0, 0, 0}, {}
for l = 4, lease_count do
  local value = org[l]
  if value then
    free[l], held[l], holds[l] = unpk('<ddd', value)
    lease_there[l] = true
  else
    free[l], held[l], holds[l] = 0, 0, 0
  end
end
local req_level, req_at, tok_level, tok_at, slots = {}, {}, {}, {}, {}
if account_count > 0 then
  local value = hmget(METERS, accounts, account_count)
  for a = 1, account_count do
    if value[a] then
      req_level[a], req_at[a], tok_level[a], tok_at[a], slots[a] = unpk('<ddddd', value[a])
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
local first_added = NEVER                           -- earliest deadline in due_add
local new_ends = {}                                 -- holds to forget some time
local returns_add, returns_del = {}, {}
local asked, want = 0, 0                            -- the epoch and time that events come with

-- --- holds that are there -------------------------------------------------------------------------
local judge, end_hold, tick, packed_state, forget_at, forget_all
local known = only_new == 0 or there_n > 0
if not known then
  for h = 1, id_count do
    if ended[h] then known = true end
  end
  local last_now = max(now, min(latest_want, latest))
  if min(first_due, max(now, min(earliest_want, latest)) + least_ttl) <= last_now then known = true end
end
if known then
  judge, end_hold, tick, packed_state, forget_at, forget_all = (function()
    local VOIDED, UNKNOWN = -1, -2
    local LOOKS = 2048                              -- holds that one Tick looks at, at most
    local FLOOR = -50000000000 * 60000              -- rate_limit.cc: -kMaxRate * kUnit
    local unpk, max, min, floor, sub, rep = struct.unpack, math.max, math.min, math.floor, string.sub, string.rep
    local made = {}                                 -- by hold, of those that Tick found
    local lease_of, account_of, hold_of             -- by name; made when needed
    -- By hold, once parsed. After ITEMS: amount and name of each budget, then account, tokens per
    -- minute and slot of each charge.
    local state, deadline, cap, actual, parsed = {}, {}, {}, {}, {}
    local ADMITTED, TTL, ESTIMATE, PRINT, BUDGETS, CHARGES, ITEMS = 1, 2, 3, 4, 5, 6, 6
    local formats = {}
    local due_taken, due_page, due_at = 0, {}, 1    -- stored entries that Ticks of this call took

    local function put_lease(l, name, value)
      names[l], lease_of[name] = name, l
      if value then
        free[l], held[l], holds[l] = unpk('<ddd', value)
        lease_there[l] = true
      else
        free[l], held[l], holds[l] = 0, 0, 0
      end
    end

    local function lease(name)
      local l = lease_of[name]
      if not l then
        l = lease_count + 1
        lease_count = l
        put_lease(l, name, not wiped and redis.call('HGET', ORG, name))
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
      a = account_count + 1
      account_count = a
      accounts[a], account_of[name] = name, a
      local value = not wiped and redis.call('HGET', METERS, name)
      if value then
        req_level[a], req_at[a], tok_level[a], tok_at[a], slots[a] = unpk('<ddddd', value)
      else
        req_level[a], req_at[a], tok_level[a], tok_at[a], slots[a] = 0, -1, 0, -1, 0
      end
      return a
    end

    local function parse(h)
      if state[h] then return true end
      local text = record[h]
      if not text then return false end
      local counts = sub(text, 57, 58)
      local format = formats[counts]
      if not format then
        local nb, nc = string.byte(counts, 1, 2)
        format = '<lllc32BB' .. rep('lHc0', nb) .. rep('Hc0lB', nc)
        formats[counts] = format
      end
      local p = {unpk(format, text)}
      parsed[h] = p
      if stated[h] then
        state[h], deadline[h], cap[h], actual[h] = unpk('<c1ddd', stated[h])
      else
        state[h], deadline[h], cap[h], actual[h] = 'o', p[ADMITTED] + p[TTL], NEVER, UNKNOWN
      end
      return true
    end

    local function made_at(h) return made[h] or e[MADE + h] end
    local function forget_at(h) return (floor((made_at(h) + HORIZON) / 1000) + 1) * 1000 end

    -- What `ends` says of a hold without record: actual and fingerprint ('' if not known), or nil.
    local function end_of(h)
      local text = ended[h]
      if not text or forget_at(h) <= ticked then return nil end
      return (unpk('<d', text)), sub(text, 9)
    end

    local function remember(h, result, fingerprint)
      if made_at(h) + HORIZON < now then return end -- no Reserve of it can be taken any more
      if not ended[h] then new_ends[#new_ends + 1] = h end
      ended[h] = struct.pack('<d', result) .. fingerprint
      end_changed[h] = true
    end

    -- Ends what the hold occupies of its accounts' limits; `tokens` nil: the estimate stands.
    local function release_limits(h, tokens)
      local p = parsed[h]
      local from = ITEMS + 2 * p[BUDGETS] + 1
      for j = from, from + 3 * p[CHARGES] - 3, 3 do
        local a, per_minute = account(p[j]), p[j + 1]
        if p[j + 2] == 1 then slots[a] = slots[a] - 1 end
        if per_minute > 0 and tokens then
          local level = level_at(tok_level[a], tok_at[a], per_minute, now)
          tok_level[a] = max(FLOOR, min(per_minute * 60000, level - (tokens - p[ESTIMATE]) * 60000))
          tok_at[a] = max(tok_at[a], now)
        end
        meter_changed[a] = true
      end
    end

    -- Lowers what the record covers to at most `limit` of each budget; the rest becomes free lease.
    local function credit_down_to(h, limit)
      local old = cap[h]
      if limit >= old then return 0 end
      cap[h] = limit
      local p, most = parsed[h], 0
      for j = ITEMS + 1, ITEMS + 2 * p[BUDGETS], 2 do
        local amount = p[j]
        if amount > limit then
          local l, back = lease_of[p[j + 1]] or lease(p[j + 1]), (amount < old and amount or old) - limit
          free[l], held[l] = free[l] + back, held[l] - back
          lease_changed[l] = true
          if back > most then most = back end
        end
      end
      return most
    end

    local function covers_nothing(h)
      if cap[h] == 0 then return true end
      local p = parsed[h]
      for j = ITEMS + 1, ITEMS + 2 * p[BUDGETS], 2 do
        if p[j] > 0 then return false end
      end
      return true
    end

    local function finish(h, result)
      local p, limit = parsed[h], cap[h]
      remember(h, result, p[PRINT])
      if state[h] == 'x' then
        expired_add[h], expired_del[h] = nil, true
      end
      for j = ITEMS + 1, ITEMS + 2 * p[BUDGETS], 2 do
        local l, amount = lease_of[p[j + 1]] or lease(p[j + 1]), p[j]
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
      if covers_nothing(h) then                     -- nothing that the ledger would have to own
        finish(h, actual[h])
      else
        state[h] = 'x'
        state_changed[h] = true
        expired_add[h] = deadline[h]
      end
    end

    local function add_due(time, h)
      local group = due_add[time]
      if group then
        group[#group + 1] = h
      else
        due_add[time] = {h}
        if time < first_added then first_added = time end
      end
    end

    -- The earliest stored entry that no Tick of this call took yet: its ids and time, or nil.
    local function stored_due()
      if wiped then return nil end
      if not due_page[due_at] then
        due_page = redis.call('ZRANGE', DUE, due_taken, due_taken + (due_taken == 0 and 0 or 7), 'WITHSCORES')
        due_at = 1
      end
      if (due_page[due_at] or '') == '' then return nil end
      return due_page[due_at], tonumber(due_page[due_at + 1])
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
        record[id_count], stated[id_count], ended[id_count] = value[j], states[j], false
      end
      for j = 1, n do found[j] = hold_of[found[j]] end
      return found, n
    end

    local function tick(max_expired)
      local expired, more, looks = 0, 0, 0
      while min(first_due, first_added) <= now do
        if expired >= max_expired or looks >= LOOKS then
          more = 1
          break
        end
        local group, n, at
        if first_added <= first_due then
          at = first_added
          group = due_add[at]
          n = #group
          due_add[at], first_added = nil, NEVER
          for other in pairs(due_add) do first_added = min(first_added, other) end
        else
          local packed, time = stored_due()
          if packed and time <= now then
            due_del[#due_del + 1] = packed
            due_taken, due_at = due_taken + 1, due_at + 2
            group, n = find_holds(packed)
            at = time
          else                                      -- the bound in `m` was too early
            group, n = {}, 0
          end
          local _, after = stored_due()
          first_due = after or NEVER
        end
        looks = looks + n
        for j = 1, n do
          local h = group[j]
          if parse(h) and state[h] ~= 'x' then
            if deadline[h] > now then
              add_due(deadline[h], h)               -- refreshed or settled meanwhile
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

    -- What stands against a Reserve of a hold that is known or was; nil: it is a replay and answered;
    -- DONE: nothing.
    local function judge(h, text)
      if parse(h) then                              -- R9: the same answer while the hold is open
        local p = parsed[h]
        if p[PRINT] ~= sub(text, 25, 56) then return CONFLICT end
        if state[h] ~= 'o' then return FINISHED end
        out[o + 1], out[o + 2] = DONE, p[BUDGETS]
        o = o + 2
        for j = ITEMS + 2, ITEMS + 2 * p[BUDGETS], 2 do
          o = o + 1
          out[o] = free[lease(p[j])]
        end
        return nil
      end
      local result, fingerprint = end_of(h)
      if not result then return DONE end
      return (fingerprint == '' or fingerprint == sub(text, 25, 56)) and FINISHED or CONFLICT
    end

    -- An event on a hold that may be there: outcome, applied, credited, open for.
    local function end_hold(kind, h, a1, a2, bad)
      if bad == 1 then return BAD, 0, 0, 0 end
      if want > now and kind < 35 then now = want end
      local there = parse(h)
      local is = state[h]
      if kind == 31 then                            -- Settle: actual, tokens
        if not there then
          local result = end_of(h)
          return result and result ~= UNKNOWN and result ~= a1 and CONFLICT or DONE, 0, 0, 0
        end
        if is == 's' then return actual[h] == a1 and DONE or CONFLICT, 0, 0, 0 end
        if is == 'x' then return DONE, 0, 0, 0 end  -- R5: the ledger owns what it covers
        local open_ms, credited = now - parsed[h][ADMITTED], credit_down_to(h, a1)
        release_limits(h, a2)
        if covers_nothing(h) then
          finish(h, a1)
        else
          state[h], actual[h], deadline[h] = 's', a1, max(deadline[h], now + SETTLED_TTL)
          state_changed[h] = true
        end
        return DONE, 1, credited, open_ms
      elseif kind == 32 then                        -- Void
        if not there then
          local result = end_of(h)
          if not result then remember(h, VOIDED, '') end
          return result and result > 0 and CONFLICT or DONE, 0, 0, 0
        end
        if is == 's' then return CONFLICT, 0, 0, 0 end
        if is == 'x' then return DONE, 0, 0, 0 end
        local open_ms, credited = now - parsed[h][ADMITTED], credit_down_to(h, 0)
        release_limits(h, 0)
        finish(h, VOIDED)
        return DONE, 1, credited, open_ms
      elseif kind == 33 then                        -- Acknowledge: posted
        if not there or is == 'x' then return DONE, 0, 0, 0 end
        local credited = credit_down_to(h, a1)      -- the credit may never have come
        if is == 'o' then release_limits(h, nil) end
        finish(h, actual[h])
        return DONE, 1, credited, 0
      elseif kind == 34 then                        -- Refresh
        if is ~= 'o' then return DONE, 0, 0, 0 end
        deadline[h] = now + parsed[h][TTL]
        state_changed[h] = true
      elseif kind == 35 then                        -- Expire
        if not there or is == 'x' then return DONE, 0, 0, 0 end
        expire(h)
      else                                          -- ExpiredPosted
        if is ~= 'x' then return DONE, 0, 0, 0 end
        finish(h, UNKNOWN)
      end
      return DONE, 1, 0, 0
    end

    local function packed_state(h)
      return struct.pack('<c1ddd', state[h], deadline[h], cap[h], actual[h])
    end

    local function forget_all()
      state = {}
      due_page, due_at = {}, 1
    end

    -- Records name leases that the call may not: these are read together.
    lease_of = {}
    for l = 4, lease_count do lease_of[names[l]] = l end
    local wanted, n = {}, 0
    for h = 1, id_count do
      if parse(h) then
        local p = parsed[h]
        for j = ITEMS + 2, ITEMS + 2 * p[BUDGETS], 2 do
          local name = p[j]
          if not lease_of[name] then
            n = n + 1
            wanted[n], lease_of[name] = name, 0
          end
        end
      end
    end
    local value = hmget(ORG, wanted, n)
    for j = 1, n do put_lease(lease_count + j, wanted[j], value[j]) end
    lease_count = lease_count + n
    return judge, end_hold, tick, packed_state, forget_at, forget_all
  end)()
end

-- --- events ---------------------------------------------------------------------------------------
local at, last, new = MADE + #ids + 1, #e, 2        -- new: ARGV of the last new record
while at < last do
  local kind = e[at]
  if kind >= 10 and kind <= 13 then                 -- Reserve; + 1: out of bounds, + 2: first attempt
    local h, time_to_live, tokens, nb, n_limits = e[at + 1], e[at + 2], e[at + 3], e[at + 4], e[at + 5]
    local b = at + 6                                -- budgets: lease, amount; -1: observed
    local b_end = b + 2 * nb - 2
    local q = b_end + 2                             -- limits: account, requests, tokens, slots
    at = q + 4 * n_limits
    new = new + 1
    local outcome = CLOSED
    if epoch > 0 and asked == epoch then
      if want > now then now = want end
      outcome = DONE
      if record[h] or ended[h] then outcome = judge(h, ARGV[new]) end
      if outcome == DONE then
        local made_ms = e[MADE + h]
        if made_ms + HORIZON < now or made_ms > now + HORIZON then
          outcome = STALE
        elseif kind % 2 == 1 then
          outcome = BAD
        end
      end
    end
    if outcome ~= DONE then
      if outcome then
        o = o + 1
        out[o] = outcome
      end
    else
      -- Validate everything before the first change.
      local short, refused, n_refused = 0, nil, 0
      for j = b, b_end, 2 do
        if free[e[j]] < e[j + 1] then short = short + 1 end
      end
      if n_limits > 0 and kind >= 12 then
        refused = {}
        for k = q, q + 4 * n_limits - 4, 4 do
          local a, rpm, tpm, most = e[k], e[k + 1], e[k + 2], e[k + 3]
          if rpm > 0 then
            local less = 60000 - level_at(req_level[a], req_at[a], rpm, now)
            if less > 0 then
              refused[n_refused + 1], refused[n_refused + 2] = (k - q) / 4, 0
              refused[n_refused + 3] = floor((less + rpm - 1) / rpm)
              n_refused = n_refused + 3
            end
          end
          if tpm > 0 then
            local less = tokens * 60000 - level_at(tok_level[a], tok_at[a], tpm, now)
            if less > 0 or tokens > tpm then
              refused[n_refused + 1], refused[n_refused + 2] = (k - q) / 4, 1
              refused[n_refused + 3] = tokens > tpm and -1 or floor((less + tpm - 1) / tpm)
              n_refused = n_refused + 3
            end
          end
          if most > 0 and slots[a] >= most then
            refused[n_refused + 1], refused[n_refused + 2], refused[n_refused + 3] = (k - q) / 4, 2, 0
            n_refused = n_refused + 3
          end
        end
      end
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
        o = o + 1
        out[o] = ADMITTED
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
          if rpm > 0 and kind >= 12 then
            req_level[a] = level_at(req_level[a], req_at[a], rpm, now) - 60000
            req_at[a] = max(req_at[a], now)
          end
          if tpm > 0 then
            local level = level_at(tok_level[a], tok_at[a], tpm, now) - tokens * 60000
            tok_level[a], tok_at[a] = max(-3000000000000000, level), max(tok_at[a], now)
          end
          if most > 0 then slots[a] = slots[a] + 1 end
          if rpm > 0 or tpm > 0 or most > 0 then meter_changed[a] = true end
        end
        -- The record comes with the time that its event came with; another enforcer may be ahead.
        local text = ARGV[new]
        record[h] = now == want and text or pack('<l', now) .. string.sub(text, 9)
        hold_changed[h] = true
        local deadline = now + time_to_live
        local group = due_add[deadline]
        if group then
          group[#group + 1] = h
        else
          due_add[deadline] = {h}
          if deadline < first_added then first_added = deadline end
        end
      end
    end
  elseif kind >= 31 and kind <= 36 then             -- an event on a hold
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
      outcome, ticked, ticking = DONE, now, true
      if min(first_due, first_added) <= now then expired, more = tick(e[at + 1]) end
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
        returns_add[id] = pack('<lH', id, #taken) .. table.concat(taken)
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
    local to, outcome = e[at + 1], DONE
    at = at + 2
    if to <= 0 then
      outcome = BAD
    elseif to < key or (to == key and epoch == 0) then
      outcome = CLOSED
    elseif to > key then
      key, epoch, wiped = to, to, true
      last_grant, last_return, ticked = 0, 0, 0
      first_due, first_added, first_forget = NEVER, NEVER, NEVER
      for h = 1, id_count do
        record[h], stated[h], ended[h] = false, false, false
      end
      for l = 4, lease_count do free[l], held[l], holds[l] = 0, 0, 0 end
      for a = 1, account_count do
        req_level[a], req_at[a], tok_level[a], tok_at[a], slots[a] = 0, -1, 0, -1, 0
      end
      lease_there = {}
      hold_changed, state_changed, end_changed, lease_changed, meter_changed = {}, {}, {}, {}, {}
      expired_add, expired_del, due_add, due_del, new_ends = {}, {}, {}, {}, {}
      returns_add, returns_del = {}, {}
      forget_all()
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
    for _, key in ipairs({HOLDS, STATES, ENDS, METERS}) do call('HSET', key, '', '') end
    for _, key in ipairs({DUE, EXPIRED, RETURNS}) do call('ZADD', key, '+inf', '') end
    call('RPUSH', FORGET, pack('<d', 0))
  end

  -- Deletions come first: a script that starts with one is not refused for lack of memory.
  local hold_set, hold_n, list, count = {}, 0, {}, 0
  for h in pairs(hold_changed) do
    if record[h] then
      hold_set[hold_n + 1], hold_set[hold_n + 2] = ids[h], record[h]
      hold_n = hold_n + 2
    else
      count = count + 1
      list[count] = ids[h]
    end
  end
  many('HDEL', HOLDS, list, count)
  local state_set, state_n = {}, 0
  list, count = {}, 0
  for h in pairs(state_changed) do
    if record[h] then
      state_set[state_n + 1], state_set[state_n + 2] = ids[h], packed_state(h)
      state_n = state_n + 2
    else
      count = count + 1
      list[count] = ids[h]
    end
  end
  many('HDEL', STATES, list, count)
  many('ZREM', DUE, due_del, #due_del)
  list, count = {}, 0
  for h in pairs(expired_del) do
    count = count + 1
    list[count] = ids[h]
  end
  many('ZREM', EXPIRED, list, count)
  for j = 1, #returns_del do call('ZREMRANGEBYSCORE', RETURNS, returns_del[j], returns_del[j]) end
  local org_set, n = {}, 0
  list, count = {}, 0
  for l in pairs(lease_changed) do
    if free[l] ~= 0 or holds[l] ~= 0 then
      org_set[n + 1], org_set[n + 2] = names[l], pack('<ddd', free[l], held[l], holds[l])
      n = n + 2
    elseif lease_there[l] then
      count = count + 1
      list[count] = names[l]
    end
  end
  many('HDEL', ORG, list, count)
  if ticking and first_forget <= ticked and not wiped then
    -- A few of the oldest ends go with every call: more than come.
    local page, gone = call('LRANGE', FORGET, 0, 4), 0
    first_forget = NEVER
    for j = 1, #page do
      local time = unpk('<d', page[j])
      if time > ticked or j == 5 then
        first_forget = time
        break
      end
      local found, found_n = split(page[j], 9)
      many('HDEL', ENDS, found, found_n)
      gone = j
    end
    if gone == #page and gone > 0 then
      if #page[gone] == 8 then
        gone = gone - 1
      else
        call('RPUSH', FORGET, pack('<d', 0))
      end
    end
    if gone > 0 then call('LTRIM', FORGET, gone, -1) end
  end

  -- At most 256 hold ids in one element.
  for from = 1, #new_ends, 256 do
    local group, time = {}, 0
    for j = from, min(#new_ends, from + 255) do
      time = max(time, forget_at(new_ends[j]))
      group[#group + 1] = ids[new_ends[j]]
    end
    first_forget = min(first_forget, time)
    call('RPUSH', FORGET, pack('<d', time) .. table.concat(group))
  end
  org_set[n + 1] = 'm'
  org_set[n + 2] = pack('<ddddddd', epoch, now, ticked, last_grant, last_return, min(first_due, first_added),
                        first_forget)
  n = n + 2
  if wiped then
    org_set[n + 1], org_set[n + 2] = 'i', string.match(info, 'master_replid:(%x+)')
    org_set[n + 3], org_set[n + 4] = 'l', org[3]
    n = n + 4
  end
  many('HSET', ORG, org_set, n)
  many('HSET', HOLDS, hold_set, hold_n)
  many('HSET', STATES, state_set, state_n)

  list, count = {}, 0
  for h in pairs(end_changed) do
    list[count + 1], list[count + 2] = ids[h], ended[h]
    count = count + 2
  end
  many('HSET', ENDS, list, count)
  list, count = {}, 0
  for time, group in pairs(due_add) do
    for from = 1, #group, 256 do
      local members = {}
      for j = from, min(#group, from + 255) do members[#members + 1] = ids[group[j]] end
      list[count + 1], list[count + 2] = time, table.concat(members)
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
    list[count + 2] = pack('<ddddd', req_level[a], req_at[a], tok_level[a], tok_at[a], slots[a])
    count = count + 2
  end
  many('HSET', METERS, list, count)
end

-- Padded to a multiple of 16 numbers.
local padding = (-o) % 16
for j = o + 1, o + padding do out[j] = 0 end
o = o + padding
local parts = {}
for from = 1, o, 3504 do
  local to = min(o, from + 3503)
  parts[#parts + 1] = pack('<' .. string.rep('llllllllllllllll', (to - from + 1) / 16), unpack(out, from, to))
end
return #parts == 1 and parts[1] or table.concat(parts)
