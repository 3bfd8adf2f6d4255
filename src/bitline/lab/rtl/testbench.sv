// Plays the bytes a host sent to the board and writes down those the board sends: +host=FILE +board=FILE.
`timescale 1ns / 1ps
module testbench #(
    parameter int ROWS = 16,
    parameter int COLUMNS = 24,
    parameter int LANES = 24,
    parameter int PASSES = 3,
    parameter int MOST = 4096,
    parameter int IDENTITY_BYTES = 80
);
    logic clk = 0, reset = 1;
    always #5 clk = ~clk;

    logic [7:0] rx_data = 0, tx_data;
    logic rx_valid = 0, rx_ready, tx_valid, tx_ready = 0;
    bench #(
        .ROWS(ROWS), .COLUMNS(COLUMNS), .LANES(LANES), .PASSES(PASSES), .MOST(MOST), .IDENTITY_BYTES(IDENTITY_BYTES)
    ) dut (.*);

    integer host, answers, value, idle = 0;
    logic ended = 0;
    reg [8*512-1:0] host_name, board_name;

    initial begin
        if (!$value$plusargs("host=%s", host_name) || !$value$plusargs("board=%s", board_name))
            $fatal(1, "usage: +host=FILE +board=FILE");
        host = $fopen(host_name, "rb");
        answers = $fopen(board_name, "w");
        if (host == 0 || answers == 0) $fatal(1, "cannot open the files");
        repeat (4) @(posedge clk);
        #1 reset = 0;
    end

    // Signals change between clock edges; the host pauses, and takes answers, at random.
    always @(negedge clk) if (!reset) begin
        if (!rx_valid && !ended && $urandom % 8 != 0) begin
            value = $fgetc(host);
            if (value < 0) ended = 1;
            else begin
                rx_data = value[7:0];
                rx_valid = 1;
            end
        end
        tx_ready = $urandom % 4 != 0;
    end

    always @(posedge clk) if (!reset) begin
        if (tx_valid && tx_ready) $fwrite(answers, "%02x\n", tx_data);
        idle = ended && !rx_valid && !tx_valid ? idle + 1 : 0;
        if (idle == 20000) begin
            $fclose(answers);
            $finish;
        end
    end
    always @(posedge clk) if (!reset && rx_valid && rx_ready) #1 rx_valid = 0;
endmodule
