-- What a just-in-time compiler must get right, printed; the same with and without it.
local bit = require("bit")

local function fannkuch(n)
        local p, q, s, sign, maxflips, sum = {}, {}, {}, 1, 0, 0
        for i = 1, n do p[i] = i; q[i] = i; s[i] = i end
        repeat
                local q0 = p[1]
                if q0 ~= 1 then
                        for i = 2, n do q[i] = p[i] end
                        local flips = 1
                        while true do
                                local qq = q[q0]
                                if qq == 1 then
                                        sum = sum + sign * flips
                                        if flips > maxflips then maxflips = flips end
                                        break
                                end
                                q[q0] = q0
                                if q0 >= 4 then
                                        local i, j = 2, q0 - 1
                                        repeat q[i], q[j] = q[j], q[i]; i = i + 1; j = j - 1 until i >= j
                                end
                                q0 = qq
                                flips = flips + 1
                        end
                end
                if sign == 1 then
                        p[1], p[2] = p[2], p[1]
                        sign = -1
                else
                        p[2], p[3] = p[3], p[2]
                        sign = 1
                        for i = 3, n do
                                local sx = s[i]
                                if sx ~= 1 then s[i] = sx - 1; break end
                                if i == n then return sum, maxflips end
                                s[i] = i
                                local t = p[1]
                                for j = 1, i do p[j] = p[j + 1] end
                                p[i + 1] = t
                        end
                end
        until false
end

local function mandelbrot(n)
        local sum = 0
        for y = 0, n - 1 do
                for x = 0, n - 1 do
                        local cr, ci, zr, zi, k = 2 * x / n - 1.5, 2 * y / n - 1, 0, 0, 0
                        while k < 50 and zr * zr + zi * zi < 4 do
                                zr, zi, k = zr * zr - zi * zi + cr, 2 * zr * zi + ci, k + 1
                        end
                        sum = bit.bxor(bit.rol(sum, 5), k)
                end
        end
        return sum
end

local function strings(n)
        local t = {}
        for i = 1, n do t[#t + 1] = string.format("%x", i * 2654435761 % 4294967296) end
        table.sort(t)
        local all, h = table.concat(t, ","), 0
        for c in all:gmatch(".") do h = bit.tobit(h * 31 + c:byte()) end
        return h, select(2, all:gsub("[a-f]+", ""))
end

local function closures(n)
        local fs, sum = {}, 0
        for i = 1, n do fs[i] = function(x) return x * i % 1013 end end
        for r = 1, 40 do for i = 1, n do sum = (sum + fs[i](r)) % 1000003 end end
        return sum
end

-- Code that was compiled for one kind of value meets another.
local function kinds(n)
        local x, log = 1, {}
        for i = 1, n do
                if i % 1000 == 0 then x = tostring(i) elseif i % 1000 == 500 then x = i + 0.5 else x = x + 1 end
                if i % 997 == 0 then log[#log + 1] = tostring(x) end
        end
        return #log, log[#log]
end

print("fannkuch", fannkuch(8))
print("mandelbrot", mandelbrot(200))
print("strings", strings(20000))
print("closures", closures(2000))
print("kinds", kinds(200000))
for i = 1, 300 do -- many small functions, compiled and thrown away
        local f = assert(loadstring("local n = ... local s = 0 for i = 1, n do s = s + (i * " .. i .. ") % 17 end return s"))
        if i % 50 == 0 then print("small", i, f(1000)) else f(200) end
end
